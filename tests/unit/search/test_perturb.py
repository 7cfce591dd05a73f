"""Perturbed trials in the controller: journalled, replayed at any cut, told apart from duplicates."""

import sys
from pathlib import Path

import pytest

from lungtune import optuna_study, summary
from lungtune.core import journal
from lungtune.core.study import Study
from lungtune.core.trial import History, State
from lungtune.search.controller import TrialController

sys.path.insert(0, str(Path(__file__).parent))
from conducted import MODES, outcome, reopen, simulated

SPACE = simulated.space(4, scheduler=MODES["stop"])


def begin(folder, space=SPACE):
    study = simulated.begin(folder, space)
    return study, TrialController(study, space, 0)


def changed(trial, **changes):
    return {**trial.params, **changes}


def perturbed(folder):
    """Two trials; the second goes on from the first one's pass 1, and reports again."""
    study, controller = begin(folder)
    first, second = controller.next(), controller.next()
    for number in (first.number, second.number):
        controller.history.trials[number].origin = "start"  # never stopped by ASHA
    for fidelity in (1, 2, 3):
        for assigned in (first, second):
            assert controller.report(assigned.number, outcome(assigned.params, fidelity))
    trials = controller.history.trials
    params = changed(trials[0], quality=0.9)
    assigned = controller.perturb(1, 0, 1.0, params, trials[0].reports[0].checkpoint)
    return study, controller, assigned


def test_perturbation_is_journalled_and_assigned(tmp_path):
    study, _, assigned = perturbed(tmp_path / "s")
    event = journal.read(study.journal_path)[-1]
    assert {key: event[key] for key in event if key not in ("time", "params")} == {
        "event": "perturb", "trial": 1, "donor": 0, "donor_fidelity": 1.0, "fidelity": 3, "checkpoint": "c"
    }  # fmt: skip
    assert event["params"]["quality"] == 0.9
    assert (assigned.number, assigned.known, assigned.segment, assigned.seed) == (1, 1.0, 1, 1)
    assert assigned.params == event["params"]
    assert study.checkpoints(1, assigned.segment) == study.checkpoints(1) / "segment-1"
    assert study.checkpoints(1, 0) == tmp_path / "s" / "checkpoints" / "0001"
    study.release()


def test_reports_below_earlier_ones_are_taken(tmp_path):
    study, controller, assigned = perturbed(tmp_path / "s")
    before = controller.history.work
    assert controller.report(1, outcome(assigned.params, 2))
    trial = controller.history.trials[1]
    assert [report.fidelity for report in trial.reports] == [1, 2, 3, 2]
    assert controller.history.work == before + 1
    assert controller.report(1, outcome(assigned.params, 2))  # again after a lost checkpoint: not counted twice
    assert len(trial.reports) == 4
    study.release()


def test_every_slice_of_the_journal_replays(tmp_path):
    """A controller on any prefix has the state of the history, and goes on to the same end."""
    study, controller, assigned = perturbed(tmp_path / "s")
    for fidelity in (2, 3, 9):
        controller.report(1, outcome(assigned.params, fidelity))
    assert controller.history.trials[1].state is State.COMPLETE
    study.release()
    lines = study.journal_path.read_bytes().splitlines(keepends=True)
    for count in range(3, len(lines)):
        folder = tmp_path / f"cut-{count}"
        folder.mkdir()
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:count]))
        again = Study(folder)
        again.acquire()
        replayed = TrialController(again, SPACE, 0)
        history = History(journal.read(again.journal_path))
        for number, trial in replayed.history.trials.items():
            assert trial.params == history.trials[number].params
            assert trial.fidelity == history.trials[number].fidelity
        again.release()


def test_decision_after_a_perturbation_is_carried_out_on_resume(tmp_path):
    """The decision on the report at 9 passes was cut off; earlier reports at as many passes have none left."""
    study, controller, assigned = perturbed(tmp_path / "s")
    for fidelity in (2, 3):
        controller.report(1, outcome(assigned.params, fidelity))
    study.append("report", trial=1, fidelity=9, samples=900, metrics={"macro_f1": 0.5}, checkpoint="c")
    study = reopen(study)
    again = TrialController(study, SPACE, 0)
    assert again.history.trials[1].state is State.COMPLETE
    assert sum(event["event"] == "end" for event in journal.read(study.journal_path)) == 1
    study.release()


def test_a_report_before_a_perturbation_is_not_decided_again(tmp_path):
    """It was the trial's last at a rung, and would pause it if it were."""
    space = simulated.space(4, scheduler=MODES["promote"])
    study, controller = begin(tmp_path / "s", space)
    controller.next()
    study.append("report", trial=0, fidelity=1, samples=100, metrics={"macro_f1": 0.5}, checkpoint="c")
    params = changed(controller.history.trials[0], quality=0.9)
    study.append("perturb", trial=0, donor=0, donor_fidelity=1, fidelity=1, params=params, checkpoint="c")
    study = reopen(study)
    again = TrialController(study, space, 0)
    assert again.history.trials[0].state is State.RUNNING
    assert again.next().segment == 1
    study.release()


def test_a_perturbed_trial_answers_no_duplicate(tmp_path):
    study, controller, assigned = perturbed(tmp_path / "s")
    for fidelity in (2, 3, 9):
        controller.report(1, outcome(assigned.params, fidelity))
    study.append("trial", trial=2, params=dict(assigned.params), sampled={}, distributions={}, seed=2, origin="sampler")
    study = reopen(study)
    again = TrialController(study, SPACE, 0)
    assert {again.next().number, again.next().number} >= {2}
    assert again.history.trials[2].duplicate_of is None
    study.release()


@pytest.mark.parametrize(
    ("donor", "params", "message"),
    [(7, {}, "there is no trial 7"), (0, {"extra": 1}, "but differ in extra"), (0, {"state": 1}, "must be running")],
)
def test_a_wrong_perturbation_is_refused(tmp_path, donor, params, message):
    study, controller = begin(tmp_path / "s")
    controller.next()
    trial = controller.history.trials[0]
    if "state" in params:
        trial.state = State.FAIL
    before = study.journal_path.read_bytes()
    with pytest.raises(ValueError, match=message):
        controller.perturb(0, donor, 0.0, changed(trial, **params), None)
    assert study.journal_path.read_bytes() == before
    study.release()


def test_the_sampler_sees_the_parameters_of_the_best_report(tmp_path):
    study, controller, assigned = perturbed(tmp_path / "s")
    controller.report(1, outcome(assigned.params, 2))
    trial = controller.history.trials[1]
    assert trial.best(SPACE.objective) is trial.reports[-1]
    assert optuna_study.frozen(SPACE, trial, 2.0).params["quality"] == 0.9
    own = trial.params_at(trial.reports[0])["quality"]
    assert optuna_study.frozen(SPACE, trial, 1.0).params["quality"] == own
    assert summary._trial(trial, controller.history)["params"]["quality"] == 0.9
    assert [s["until"] for s in summary._trial(trial, controller.history)["segments"]] == [1.0, None]
    study.release()
