"""``kill -9`` at random moments: does a search lose, repeat or change anything?

    python benchmarks/kills.py --kills 50
    python benchmarks/kills.py --kills 20 --engine tune --workers 2

Searches with simulated training (real command, Ray, journal, a real MLflow server) run one after another. A few
times in each, the driver, a host, the raylet, the GCS or the MLflow server is killed; a killed driver is resumed, a
killed server started again. After each search the checker of the fault tests compares journal, summary and MLflow.
With one worker the final state must equal that of an undisturbed search.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from lungtune.core.study import Study
from lungtune.tracking import server, store
from tests.faults.checker import check, check_decisions
from tests.faults.drive import Drive

TARGETS = ("driver", "host", "raylet", "gcs", "mlflow")
PER_SEARCH = 3
"""Kills in one search."""


class Server:
    """A real MLflow server on a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = server.free_port(None)
        self.address = f"http://{server.HOST}:{self.port}"
        self.store = f"sqlite:///{folder / 'mlflow.db'}"
        store.prepare(self.store)
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.folder / "server.log", "ab") as log:
            words = server.command(self.store, self.port)
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)

    def kill(self) -> None:
        """Kill it and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def state(folder: Path) -> dict[int, Any]:
    """Return the final state of each trial: parameters, state, reason, fidelity and metrics of each report."""
    return {
        number: (
            trial.params,
            trial.state,
            trial.reason,
            [(each.fidelity, dict(each.metrics)) for each in trial.reports],
        )
        for number, trial in Study(folder).history().trials.items()
    }


def strike(target: str, drive: Drive, flags: list[str], mlflow: Server) -> bool:
    """Kill a target; return False where there is none at this moment, or the search has ended."""
    if not drive.running:
        return False
    if target == "driver":
        drive.signal(signal.SIGKILL)
        drive.end(30)
        drive.start(*flags)
    elif target == "mlflow":
        mlflow.kill()
        mlflow.start()
    else:
        found = drive.children(target)
        if not found:
            return False
        os.kill(found[0], signal.SIGKILL)
    return True


def disturbed(drive: Drive, flags: list[str], mlflow: Server, targets: list[str], chance: random.Random) -> list[str]:
    """Run a search to its end, kill the first of ``targets`` at a random moment, then the next; return those killed."""
    drive.start(*flags)
    killed: list[str] = []
    while drive.running and len(killed) < PER_SEARCH and len(killed) < len(targets):
        wanted, until = len(drive.events()) + chance.randint(0, 14), time.monotonic() + 150
        while len(drive.events()) < wanted and drive.running and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.5)
        if strike(targets[len(killed)], drive, flags, mlflow):
            print(f"    {targets[len(killed)]} killed after {len(drive.events())} events", flush=True)
            killed.append(targets[len(killed)])
    return killed


def main(argv: list[str] | None = None) -> int:
    """Run the searches; print a row for each, then the sums. Return 0 if nothing was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("hosts", "tune"), default="hosts")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--trials", type=int, default=6)
    args = parser.parse_args(argv)
    chance, counts, seconds, wrong = random.Random(args.seed), Counter[str](), [], []
    sequence = [TARGETS[number % len(TARGETS)] for number in range(args.kills)]
    chance.shuffle(sequence)
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        mlflow = Server(home)
        flags = ["--hosts", str(args.workers)]
        options: dict[str, Any] = {"TRIALS": args.trials, "SECONDS": 0.1, "SLOTS": 1}
        try:
            plain = Drive(home / "plain", mlflow.address, args.engine, **options)
            began = time.monotonic()
            assert plain.start(*flags).end().code == 0, plain.output()
            undisturbed = time.monotonic() - began
            while sequence:
                number = len(seconds)
                drive = Drive(home / f"{number}", mlflow.address, args.engine, **options)
                began = time.monotonic()
                killed: list[str] = []
                try:
                    killed = disturbed(drive, flags, mlflow, sequence, chance)
                    check(drive.folder, uri=mlflow.address, left=drive.end(400), code=0)
                    if args.workers == 1:
                        check_decisions(drive.folder, home / f"again-{number}")
                        assert state(drive.folder) == state(plain.folder), "the final state differs"
                except AssertionError as error:
                    wrong.append(f"search {number}: {error}")
                    killed = killed or sequence[:1]
                finally:
                    drive.close()
                counts.update(killed)
                sequence = sequence[len(killed) :]
                seconds.append(time.monotonic() - began)
                print(f"search {number}: {', '.join(killed)}: {seconds[-1]:.0f} s", flush=True)
        finally:
            mlflow.kill()
    each = ", ".join(f"{count} {target}" for target, count in sorted(counts.items()))
    print(f"{sum(counts.values())} kills ({each}) in {len(seconds)} searches, {args.engine}, {args.workers} worker(s)")
    print(f"seconds a search: {statistics.median(seconds):.0f} median, undisturbed {undisturbed:.0f}")
    print(f"searches with anything lost, doubled or changed: {len(wrong)}")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
