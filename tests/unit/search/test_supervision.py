"""Ray itself fails; the search goes on from its journal all the same."""

import sys
from pathlib import Path

import pytest

from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search import cluster, loop
from lungtune.search.conductor import MAX_LOST, Conductor

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
import simulated


@pytest.fixture
def conductor(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "start", lambda: None)
    space = simulated.space(3)
    return Conductor(simulated.begin(tmp_path / "s", space), space, 0)


def train(conductor, assigned):
    for fidelity in [level for level in conductor.space.fidelity.reports if level > assigned.known]:
        value = simulated.score(assigned.params, fidelity)
        report = {"fidelity": fidelity, "samples": 1, "metrics": {"macro_f1": value}, "checkpoint": "c"}
        if not conductor.report(assigned.number, report):
            return


def test_a_search_that_ray_drops_goes_on(conductor, monkeypatch):
    calls = []

    def run(conductor, *rest):
        calls.append([t.number for t in conductor.history.of(State.RUNNING)])
        first = conductor.next()
        if len(calls) == 1:
            raise ConnectionError("the cluster is gone")
        while first is not None:
            train(conductor, first)
            first = conductor.next()

    monkeypatch.setattr(loop, "_run", run)
    loop.run_trials(conductor, lambda: None)
    assert calls == [[], [0]]  # the trial that was running is taken up again
    assert conductor.finished
    assert not conductor.history.of(State.FAIL)


def test_a_search_that_never_gets_anywhere_ends(conductor, monkeypatch):
    def run(conductor, *rest):
        conductor.next()
        raise RuntimeError("low on memory")

    monkeypatch.setattr(loop, "_run", run)
    with pytest.raises(StudyError, match="without a new report: low on memory"):
        loop.run_trials(conductor, lambda: None)
    assert all(trial.lost <= MAX_LOST + 1 for trial in conductor.history.trials.values())
