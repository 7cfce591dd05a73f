"""One real Ray run with ten kinds of trial failure: each is handled, and the study continues."""

from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.trial import State
from lungtune.search import tuner
from lungtune.search.controller import MAX_LOST, TrialController

simulated = pytest.importorskip("simulated")

FAULTS = {
    "none": (State.COMPLETE, ""),
    "nan": (State.FAIL, "nan"),
    "inf": (State.FAIL, "nan"),
    "missing": (State.FAIL, "report"),
    "string": (State.FAIL, "report"),
    "tensor": (State.FAIL, "report"),
    "raise": (State.FAIL, "error"),
    "kill": (State.COMPLETE, ""),
    "kill-after-checkpoint": (State.COMPLETE, ""),
    "always-kill": (State.FAIL, "lost"),
}


@pytest.fixture(scope="module", params=["hosts", pytest.param("tune", marks=pytest.mark.slow)])
def ended(request, tmp_path_factory):
    """The study after its run, with four trials the sampler chose behind the ten bad ones."""
    space = simulated.space(len(FAULTS) + 4, faults=tuple(FAULTS), slots=3)
    study = simulated.begin(tmp_path_factory.mktemp("studies") / "faults", space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        backend = simulated.backend(request.param)
        backend.start(space)
        try:
            tuner.run_trials(TrialController(study, space, 0), backend, lambda: None)
        finally:
            backend.stop()
            study.release()
    return study


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=list(FAULTS))
def test_each_fault_ends_its_own_trial_as_it_should(ended, number):
    trial = ended.history().trials[number]
    assert (trial.state, trial.reason) == list(FAULTS.values())[number]


def test_the_study_goes_on_to_its_last_trial(ended):
    others = [t for number, t in ended.history().trials.items() if number >= len(FAULTS)]
    assert len(others) == 4
    assert all(trial.state in (State.COMPLETE, State.PRUNED) for trial in others)


def test_an_exception_is_kept_with_its_traceback(ended):
    trial = ended.history().trials[list(FAULTS).index("raise")]
    assert "ValueError: a mistake in the model's code" in trial.message
    assert "simulated.py" in trial.message


def test_killed_trial_continues_from_its_checkpoint(ended):
    for fault, resumed_at in (("kill", "1"), ("kill-after-checkpoint", "2")):
        number = list(FAULTS).index(fault)
        starts = (ended.checkpoints(number) / "starts").read_text().split()
        assert starts[0] == "0"
        assert resumed_at in starts
        assert starts == sorted(starts)  # a neighbour that killed the host may have cost it more starts, not progress
        fidelities = [report.fidelity for report in ended.history().trials[number].reports]
        assert fidelities == list(simulated.FIDELITY.reports)


def test_trial_that_always_kills_its_worker_fails(ended):
    number = list(FAULTS).index("always-kill")
    lost = [e for e in journal.read(ended.journal_path) if e["event"] == "lost" and e["trial"] == number]
    assert ended.history().trials[number].lost == MAX_LOST + 1  # since its last report
    assert len(lost) <= 2 * (MAX_LOST + 1)  # a neighbour may have killed its host as well
    assert all(event["why"] for event in lost)
