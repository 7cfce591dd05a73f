"""Controller driven without a backend or training: scores are arithmetic."""

import sys
from pathlib import Path

from lungtune.core import journal
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.study import Study
from lungtune.search.controller import TrialController

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
import simulated

MODES = {mode: SchedulerConfig("asha", {"mode": mode}) for mode in ("promote", "stop")}


def reopen(study):
    study.release()
    again = Study(study.folder)
    again.acquire()
    return again


def outcome(params, fidelity):
    value = simulated.score(params, fidelity)
    return {"fidelity": fidelity, "samples": int(fidelity * 100), "metrics": {"macro_f1": value}, "checkpoint": "c"}


def drive(study, space, order, cuts=(), workers=2):
    """Run ``workers`` trials at a time; ``order`` chooses the next to report; at ``cuts`` the driver dies."""
    controller = TrialController(study, space, 0)
    at = {}
    for step in range(10_000):
        if step in cuts:
            study = reopen(study)
            controller = TrialController(study, space, 0)
            at = {}
        while len(at) < workers and (assigned := controller.next()) is not None:
            at[assigned.number] = assigned.known
        if not at:
            break
        number = sorted(at)[order(step) % len(at)]
        at[number] = next(level for level in space.fidelity.reports if level > at[number])
        if not controller.report(number, outcome(controller.history.trials[number].params, at[number])):
            del at[number]
    assert controller.finished
    return study


def decisions(study):
    kept = ("trial", "report", "end")
    drop = {"time", "id"}
    return [
        {k: v for k, v in e.items() if k not in drop} for e in journal.read(study.journal_path) if e["event"] in kept
    ]
