"""Open MLflow on the studies' store, on this machine only.

  python scripts/ui.py                    serve at http://127.0.0.1:5000, or the next free port
  python scripts/ui.py --sync STUDY       first deliver to MLflow what a study's journal holds, then leave

MLFLOW_TRACKING_URI is respected: if it names a server, its address is printed and nothing is started.
"""

from __future__ import annotations

from lungtune.cli import Parser, run
from lungtune.core.study import Study
from lungtune.tracking import server, store, sync


def main() -> int:
    parser = Parser(__doc__)
    parser.add_argument("--port", type=int, help="listen here (default: the first free port from 5000 on)")
    parser.add_argument("--sync", metavar="STUDY", help="deliver this study to MLflow and leave")
    args = parser.parse_args()
    uri = store.tracking_uri()
    if args.sync:
        delivery = sync(Study.open(args.sync).folder)
        print(delivery.sentence or f"MLflow holds all of '{args.sync}': {delivery.uri}")
        return 0 if delivery else 1
    if store.is_remote(uri):
        print(f"MLflow is served at {store.without_password(uri)} (MLFLOW_TRACKING_URI).")
        return 0
    return server.serve(uri, args.port, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run(main)
