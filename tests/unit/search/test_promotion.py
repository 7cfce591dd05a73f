"""Promotion: pauses at rungs survive any kill; the winner always reaches full length."""

import functools
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.search.controller import TrialController

sys.path.insert(0, str(Path(__file__).parent))
from conducted import MODES, decisions, drive, outcome, reopen, simulated


def lowest(step):
    return 0


def starts(study):
    return [(e["trial"], e["fidelity"]) for e in journal_of(study) if e["event"] == "start"]


def journal_of(study):
    from lungtune.core import journal

    return journal.read(study.journal_path)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    """Uninterrupted searches, each run once."""

    @functools.cache
    def made(workers, mode):
        space = simulated.space(9, faults=("none",), scheduler=MODES[mode])
        whole = drive(simulated.begin(tmp_path_factory.mktemp("s") / "a", space), space, lowest, workers=workers)
        whole.release()
        return space, whole

    return made


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200), st.integers(1, 3), st.sampled_from(["promote", "stop"]))
def test_a_journal_cut_after_any_line_leads_to_the_same_search(tmp_path_factory, uncut, line, workers, mode):
    space, whole = uncut(workers, mode)
    lines = whole.journal_path.read_bytes().splitlines(keepends=True)
    cut = Study(tmp_path_factory.mktemp("s"))
    cut.journal_path.write_bytes(b"".join(lines[: 2 + line % (len(lines) - 1)]))
    cut.acquire()
    drive(cut, space, lowest, workers=workers)
    cut.release()
    assert decisions(cut) == decisions(whole)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 14), st.integers(1, 3), st.lists(st.integers(0, 2), min_size=5, max_size=5))
def test_the_best_of_every_rung_goes_on_to_the_end(tmp_path_factory, trials, workers, pattern):
    space = simulated.space(trials)
    study = simulated.begin(tmp_path_factory.mktemp("s") / "s", space)
    drive(study, space, lambda step: pattern[step % 5], workers=workers)
    history = study.history()
    assert not history.of(State.PAUSED, State.RUNNING)
    best = max(history.trials.values(), key=lambda trial: trial.params["quality"])
    assert best.state is State.COMPLETE
    assert history.ranked()[0] is best
    study.release()


def test_a_resumed_trial_goes_on_from_where_it_paused(tmp_path):
    space = simulated.space(3)
    study = drive(simulated.begin(tmp_path / "s", space), space, lowest, workers=1)
    best = max(study.history().trials.values(), key=lambda trial: trial.params["quality"])
    assert [fidelity for number, fidelity in starts(study) if number == best.number] == [0, 1, 3]
    assert study.history().work == 1 + 1 + 9, "nothing is trained twice"


def test_promotion_is_cheaper_when_later_trials_are_better(tmp_path):
    points = tuple({"quality": 0.05 * n, "kind": "a"} for n in range(1, 13))
    work = {}
    for mode, scheduler in MODES.items():
        space = simulated.space(12, scheduler=scheduler)
        study = simulated.begin(tmp_path / mode, space)
        for number, point in enumerate(points):
            params = {"params": {**space.fixed, **point}, "sampled": point, "distributions": {}}
            study.append("trial", trial=number, seed=number, origin="sampler", **params)
        work[mode] = drive(study, space, lowest, workers=1).history().work
    assert work["stop"] == 12 * 9, "each is the best so far"
    assert work["promote"] < work["stop"] / 2


def test_a_worker_without_work_waits_for_those_that_run(tmp_path):
    space = simulated.space(2)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    first, second = controller.next(), controller.next()
    controller.report(first.number, outcome(first.params, 1))
    assert controller.next() is None
    assert not controller.finished
    controller.report(second.number, outcome(second.params, 1))
    better = max((first, second), key=lambda assigned: assigned.params["quality"])
    assert controller.next().number == better.number


def test_a_failed_winner_gives_its_place_to_the_next(tmp_path):
    space = simulated.space(2)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    for _ in range(2):
        assigned = controller.next()
        controller.report(assigned.number, outcome(assigned.params, 1))
    winner = controller.next()
    controller.report(winner.number, {"failure": {"reason": "nan", "message": "the loss became nan"}})
    assert controller.next().number == 1 - winner.number


def test_unrecorded_pause_is_carried_out_on_resume(tmp_path):
    space = simulated.space(3)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    metrics = outcome(assigned.params, 1)["metrics"]
    study.append("report", trial=0, fidelity=1, samples=100, metrics=metrics, checkpoint="c")
    again = TrialController(reopen(study), space, 0)
    assert again.history.trials[0].state is State.PAUSED
    assert again.next().number == 1


def test_a_resumed_trial_whose_process_dies_is_not_paused_again(tmp_path):
    space = simulated.space(1)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    controller.report(controller.next().number, outcome(controller.history.trials[0].params, 1))
    assert controller.next().known == 1
    again = TrialController(reopen(study), space, 0)
    assert again.history.trials[0].state is State.RUNNING
    again.retry_or_give_up(0, "killed")
    again.requeue()
    assert again.next().known == 1


def test_an_extended_study_leaves_the_ended_trials_ended(tmp_path):
    space = simulated.space(6)
    study = drive(simulated.begin(tmp_path / "s", space), space, lowest)
    ended = {trial.number for trial in study.history().of(State.PRUNED)}
    study.append("target", trials=12)
    study = drive(study, space, lowest)
    history = study.history()
    assert len(history.trials) == 12
    assert ended <= {trial.number for trial in history.of(State.PRUNED)}


def test_duplicate_of_a_paused_trial_is_answered(tmp_path):
    point = {"quality": 0.5, "kind": "a"}
    space = simulated.space(2)
    study = simulated.begin(tmp_path / "s", space)
    for number in range(2):
        params = {"params": {**space.fixed, **point}, "sampled": point, "distributions": {}}
        study.append("trial", trial=number, seed=number, origin="sampler", **params)
    history = drive(study, space, lowest, workers=1).history()
    assert (history.trials[1].state, history.trials[1].duplicate_of) == (State.PRUNED, 0)
    assert history.trials[0].state is State.COMPLETE


@pytest.mark.parametrize("name", ["asha", "none"])
def test_without_a_scheduler_nothing_is_cut_short(tmp_path, name):
    from lungtune.core.scheduler import SchedulerConfig

    space = simulated.space(6, scheduler=SchedulerConfig(name))
    history = drive(simulated.begin(tmp_path / "s", space), space, lowest).history()
    assert (history.work == 6 * 9) is (name == "none")
