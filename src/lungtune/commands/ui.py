"""``lungtune ui``."""

from __future__ import annotations

from typing import Annotated

from lungtune import cli


def ui(
    port: Annotated[
        int | None,
        cli.option("--port", "N", "listen here (default: the first free port from 5000 on)", parser=cli.positive),
    ] = None,
    sync: Annotated[str | None, cli.option("--sync", "STUDY", "deliver this study to MLflow and leave")] = None,
) -> int:
    """Open MLflow on the studies' store, on this machine only.

    lungtune ui                    serve at http://127.0.0.1:5000, or the next free port
    lungtune ui --sync STUDY       first deliver to MLflow what a study's journal holds, then leave

    MLFLOW_TRACKING_URI is respected: if it names a server, its address is printed and nothing is started.
    """
    from lungtune import tracking
    from lungtune.core.study import Study
    from lungtune.core.text import say
    from lungtune.errors import StudyError
    from lungtune.tracking import location, preflight, server

    uri = location.tracking_uri()
    if sync:
        delivery = tracking.sync(Study.open(sync).folder)
        say(delivery.sentence or f"MLflow holds all of '{sync}': {delivery.uri}")
        return 0 if delivery else 1
    if location.is_remote(uri):
        say(f"MLflow is served at {location.without_password(uri)} (MLFLOW_TRACKING_URI).")
        return 0
    problem = "" if location.sqlite_path(uri) else preflight.problem(uri)
    if problem:
        raise StudyError(problem)
    return server.serve(uri, port, lambda line: print(line, flush=True))
