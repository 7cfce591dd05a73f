"""Cost of a trial that trains nothing: suggestion, journal, host, decisions, MLflow. ``python benchmarks/trials.py``.

Two searches of simulated trials (real Ray, real journal, real MLflow store; a report is arithmetic) that differ in the
number of trials only: what a hundred more cost, by trial.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from processes import measure

TESTS = Path(__file__).parents[1] / "tests" / "integration"


def run(trials: int) -> dict[str, float]:
    """Run a search of so many trials; return its wall and CPU seconds, all processes included."""
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"LUNGTUNE_HOME": home, "PYTHONPATH": str(TESTS)}
        env["MLFLOW_TRACKING_URI"] = f"sqlite:///{home}/mlflow.db"
        command = [sys.executable, str(TESTS / "drive.py"), f"{home}/studies/s", str(trials), "0"]
        used = measure(command, Path(home) / "log", env, TESTS, 500.0)
        return {"wall": used.wall, "cpu": used.cpu}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--trials", type=int, nargs=2, default=(10, 110), metavar="N", help="of the two searches")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    few, more = chosen.trials
    pairs = [(run(few), run(more)) for _ in range(chosen.repeat)]
    each = {kind: [(many[kind] - some[kind]) / (more - few) for some, many in pairs] for kind in ("wall", "cpu")}
    for kind, values in each.items():
        print(f"{kind}: {statistics.median(values):.3f} s a trial (of {', '.join(f'{v:.3f}' for v in values)})")
    if chosen.json:
        chosen.json.write_text(json.dumps({"pairs": pairs, "each": each}, indent=2))


if __name__ == "__main__":
    main()
