"""Ray's memory monitor ends the whole of ``Tuner.fit``; the search goes on from its journal all the same."""

import sys
from pathlib import Path

import pytest
import ray

from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search import raytune
from lungtune.search.conductor import MAX_LOST, Conductor

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
import simulated


class NoHosts:
    """Nothing is placed: the stand-in for Ray Tune trains by itself."""

    def clear(self):
        pass

    close = clear


@pytest.fixture
def conductor(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(raytune, "_hosts", lambda conductor, host: NoHosts())
    space = simulated.space(3)
    return Conductor(simulated.begin(tmp_path / "s", space), space, 0)


def train(conductor, assigned):
    for fidelity in [level for level in conductor.space.fidelity.reports if level > assigned.known]:
        value = simulated.score(assigned.params, fidelity)
        report = {"fidelity": fidelity, "samples": 1, "metrics": {"macro_f1": value}, "checkpoint": "c"}
        if not conductor.report(assigned.number, report):
            return


def test_a_search_that_ray_tune_drops_goes_on(conductor, monkeypatch):
    calls = []

    def fit(conductor, *rest):
        calls.append([t.number for t in conductor.history.of(State.RUNNING)])
        first = conductor.next()
        if len(calls) == 1:
            raise RuntimeError("Caught unexpected exception: Task was killed due to the node running low on memory")
        while first is not None:
            train(conductor, first)
            first = conductor.next()

    monkeypatch.setattr(raytune, "_fit", fit)
    raytune.run_trials(conductor, lambda: None)
    assert calls == [[], [0]]  # the trial that was running is taken up again
    assert conductor.finished
    assert not conductor.history.of(State.FAIL)


def test_a_search_that_never_gets_anywhere_ends(conductor, monkeypatch):
    def fit(conductor, *rest):
        conductor.next()
        raise RuntimeError("low on memory")

    monkeypatch.setattr(raytune, "_fit", fit)
    with pytest.raises(StudyError, match="without a new report: low on memory"):
        raytune.run_trials(conductor, lambda: None)
    assert all(trial.lost <= MAX_LOST + 1 for trial in conductor.history.trials.values())
