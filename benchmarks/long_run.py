"""Driver and tracker of a long search: CPU time and memory per report as trials add up. Training is arithmetic.

    python benchmarks/long_run.py                    5,000 trials, with MLflow (SQLite)
    python benchmarks/long_run.py --no-mlflow        the driver alone

Real: controller, journal, scheduler, sampler, live view, tracker. CPU seconds are those of the driver's thread, without
the sampler, and of all other threads, which are the tracker's. At the end the study is opened as ``--resume`` does.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import math
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil
from optuna.distributions import CategoricalDistribution, FloatDistribution
from rich.console import Console

from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import Objective
from lungtune.search.controller import TrialController
from lungtune.search.ui import live
from lungtune.tracking import Tracker

PASSES = Fidelity(max=9, min=1, eta=3, report=1)
PARAMETERS = 6
METRICS = ("accuracy", "balanced_accuracy", "macro_auroc", "mcc", "nll", "brier", "ece", "samples_per_second")
CLASSES = ("normal", "bacterial", "viral")
IN_TRAINING = 8


def space(trials: int, sampler: str) -> SearchSpace:
    """Return a space of six numbers and a choice."""
    axes: dict[str, Any] = {f"x{place}": FloatDistribution(0.0, 1.0) for place in range(PARAMETERS)}
    axes["kind"] = CategoricalDistribution(["a", "b", "c"])
    return SearchSpace(
        name="long", family="clip_lora", summary="", profile="full", objective=Objective("macro_f1"), sampler=sampler,
        trials=trials, fidelity=PASSES, base={}, fixed={"batch_size": 16, "warmup": 0.05}, axes=axes, start=(),
    )  # fmt: skip


def begin(folder: Path, searched: SearchSpace) -> Study:
    """Begin the study and hold it."""
    study = Study(folder)
    study.acquire()
    data = {"source": "none", "hash": "0" * 64, "classes": list(CLASSES), "counts": {"train": 100, "validation": 10}}
    study.begin(searched, data=data, seed=0, about={"command": "", "versions": {}, "git": {}})
    study.append("open", engine="hosts", pid=0, host="")
    return study


def outcome(number: int, params: dict[str, Any], passes: float) -> dict[str, Any]:
    """Return a trial's report."""
    peak = 0.9 - sum((params[f"x{place}"] - 0.5) ** 2 for place in range(PARAMETERS)) / PARAMETERS
    score = peak * passes / (passes + 1)
    metrics = dict.fromkeys((*METRICS, *(f"recall_{name}" for name in CLASSES)), score)
    metrics |= {"macro_f1": score, "loss": 1 - score, "peak_memory_mb": 1480.0}
    checkpoint = f"checkpoints/{number:04d}/{passes:.2f}.safetensors"
    return {"fidelity": passes, "samples": int(passes * 100), "metrics": metrics, "checkpoint": checkpoint}


class Driver:
    """The tuner's loop around simulated training.

    Args:
        folder: of the study.
        searched: its space.
        terminal: draw the live table instead of lines.
    """

    def __init__(self, folder: Path, searched: SearchSpace, terminal: bool) -> None:
        self.study, self.suggesting = begin(folder, searched), 0.0
        self.controller = TrialController(self.study, searched, 0)
        self._suggest, self.controller.suggest = self.controller.suggest, self._timed
        self.view = live.View(
            Console(file=io.StringIO(), force_terminal=terminal, width=120, height=40),
            self.controller.history,
            searched,
        )
        self.controller.watchers.append(self.view.event)
        self._training: deque[tuple[int, float]] = deque()

    def _timed(self, *words: Any) -> Any:
        began = time.thread_time()
        try:
            return self._suggest(*words)
        finally:
            self.suggesting += time.thread_time() - began

    def step(self) -> bool:
        """Fill the workers, deliver one report; return False once all trials have ended."""
        controller = self.controller
        self.view.tick()
        controller.take_requests()
        while len(self._training) < IN_TRAINING and (given := controller.next()) is not None:
            self._training.append((given.number, given.known))
        if not self._training:
            return not controller.finished
        number, known = self._training.popleft()
        passes = math.floor(known) + 1.0
        if controller.report(number, outcome(number, dict(controller.history.trials[number].params), passes)):
            self._training.append((number, passes))
        self.view.console.file.seek(0)
        self.view.console.file.truncate()
        return True


def opening(folder: Path, searched: SearchSpace) -> float:
    """Return the CPU seconds of opening a study: history, controller, replay."""
    gc.collect()
    began = time.process_time()
    study = Study.open(folder.name)
    TrialController(study, searched, study.history().study["seed"])
    return time.process_time() - began


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the search, print a row at each mark; return the rows and the opening's seconds."""
    searched, process = space(chosen.trials, chosen.sampler), psutil.Process()
    driver = Driver(folder, searched, chosen.terminal)
    tracker = None if chosen.no_mlflow else Tracker(folder, f"sqlite:///{folder.parent}/mlflow.db").start()
    rows: list[dict[str, float]] = []
    columns = ("trials", "reports", "driver_ms", "sampler_ms", "tracker_ms", "rss_mb")
    print("| " + " | ".join(columns) + " |\n|" + "---:|" * len(columns))
    marks, last = iter(range(chosen.every, chosen.trials + 1, chosen.every)), (0, 0, 0.0, 0.0, 0.0)
    mark = next(marks, None)
    with driver.view:
        while driver.step():
            trials = len(driver.controller.history.trials)
            if mark is None or trials < mark:
                continue
            if tracker is not None:  # compared at the same state: all is delivered
                while tracker.state().undelivered and not tracker.state().problem:
                    time.sleep(0.2)
            reports, own, whole = len(driver.controller.history.order), time.thread_time(), time.process_time()
            new, suggested = reports - last[1], driver.suggesting - last[3]
            row = {
                "trials": trials, "reports": reports,
                "driver_ms": 1000 * (own - last[2] - suggested) / new,
                "sampler_ms": 1000 * suggested / (trials - last[0]),
                "tracker_ms": 1000 * (whole - own - last[4]) / new,
                "rss_mb": process.memory_info().rss / 2**20,
            }  # fmt: skip
            last = trials, reports, own, driver.suggesting, whole - own
            rows.append(row)
            cells = [f"{row[name]:.6g}" if name in columns[:2] else f"{row[name]:.2f}" for name in columns]
            print(f"| {' | '.join(cells)} |", flush=True)
            mark = next(marks, None)
    driver.study.release()
    problem = ""
    if tracker is not None:
        began = time.process_time()
        problem = tracker.stop(600).sentence
        print(f"\nthe rest of MLflow, with its charts: {time.process_time() - began:.1f} CPU seconds {problem}")
    size = (folder / "journal.jsonl").stat().st_size
    del driver, tracker
    seconds = opening(folder, searched)
    print(f"\nopening: {seconds:.2f} CPU seconds, journal of {size / 1e6:.1f} MB")
    return {"rows": rows, "opening": seconds, "journal_bytes": size, "problem": problem}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--every", type=int, default=500, help="trials between two rows")
    parser.add_argument("--sampler", default="tpe", help="tpe, random, ...")
    parser.add_argument("--no-mlflow", action="store_true", help="the driver alone")
    parser.add_argument("--terminal", action="store_true", help="draw the live table instead of lines")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as home:
        os.environ["LUNGTUNE_HOME"] = home
        found = measure(Path(home) / "studies" / "long", chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
