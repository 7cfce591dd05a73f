"""Ray itself fails; the search goes on from its journal all the same."""

import sys
from pathlib import Path

import pytest

from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search import tuner
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.controller import MAX_LOST, TrialController

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
import simulated


@pytest.fixture
def controller(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "start", lambda: None)
    space = simulated.space(3)
    return TrialController(simulated.begin(tmp_path / "s", space), space, 0)


def train(controller, assigned):
    for fidelity in [level for level in controller.space.fidelity.reports if level > assigned.known]:
        value = simulated.score(assigned.params, fidelity)
        report = {"fidelity": fidelity, "samples": 1, "metrics": {"macro_f1": value}, "checkpoint": "c"}
        if not controller.report(assigned.number, report):
            return


def test_a_search_that_ray_drops_goes_on(controller, monkeypatch):
    calls = []

    def run(controller, *rest):
        calls.append([t.number for t in controller.history.of(State.RUNNING)])
        first = controller.next()
        if len(calls) == 1:
            raise ConnectionError("the cluster is gone")
        while first is not None:
            train(controller, first)
            first = controller.next()

    monkeypatch.setattr(tuner, "_run", run)
    tuner.run_trials(controller, lambda: None)
    assert calls == [[], [0]]  # the trial that was running is taken up again
    assert controller.finished
    assert not controller.history.of(State.FAIL)


def test_a_search_that_never_gets_anywhere_ends(controller, monkeypatch):
    def run(controller, *rest):
        controller.next()
        raise RuntimeError("low on memory")

    monkeypatch.setattr(tuner, "_run", run)
    with pytest.raises(StudyError, match="without a new report: low on memory"):
        tuner.run_trials(controller, lambda: None)
    assert all(trial.lost <= MAX_LOST + 1 for trial in controller.history.trials.values())
