"""Controller: decisions are durable; a bad report fails one trial only. No Ray, no torch."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.core.scheduler import Decision, SchedulerConfig
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search.controller import MAX_DIVERGED, MAX_FAILURES, MAX_FAULTS, MAX_LOST, TrialController
from lungtune.search.sampler import Suggestion

sys.path.insert(0, str(Path(__file__).parent))
from conducted import MODES, decisions, drive, outcome, reopen, simulated


@settings(deadline=None, max_examples=15)
@given(
    st.lists(st.integers(0, 3), min_size=8, max_size=8),
    st.sets(st.integers(1, 60), max_size=6),
    st.sampled_from(["promote", "stop"]),
)
def test_interrupted_search_decides_as_uninterrupted(tmp_path_factory, pattern, cuts, mode):
    folder = tmp_path_factory.mktemp("s")
    space = simulated.space(10, faults=("none",), scheduler=MODES[mode])

    def order(step):
        return pattern[step % len(pattern)]

    whole = drive(simulated.begin(folder / "a", space), space, order)
    cut = drive(simulated.begin(folder / "b", space), space, order, cuts)
    assert decisions(cut) == decisions(whole)
    whole.release()
    cut.release()


def test_unrecorded_stop_is_carried_out_on_resume(tmp_path):
    space = simulated.space(3, scheduler=MODES["stop"])
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    first, second = controller.next(), controller.next()
    good, bad = sorted((first, second), key=lambda a: -a.params["quality"])
    controller.report(good.number, outcome(good.params, 1))
    metrics = {"macro_f1": simulated.score(bad.params, 1)}
    study.append("report", trial=bad.number, fidelity=1, samples=100, metrics=metrics, checkpoint="c")
    study = reopen(study)  # killed between the report and the decision
    again = TrialController(study, space, 0)
    assert again.history.trials[bad.number].state is State.PRUNED
    assert again.next().number == good.number


@pytest.mark.parametrize(
    ("metrics", "reason", "word"),
    [
        ({"macro_f1": math.nan}, "nan", "became nan"),
        ({"macro_f1": math.inf}, "nan", "became inf"),
        ({"macro_f1": 0.5, "loss": math.nan}, "nan", "'loss' became nan"),
        ({"accuracy": 0.5}, "report", "must hold 'macro_f1', but holds accuracy"),
        ({}, "report", "holds nothing"),
        ({"macro_f1": "0.5"}, "report", "plain number"),
        ({"macro_f1": 0.5, "note": [1]}, "report", "'note' is"),
    ],
)
def test_a_bad_report_fails_its_trial_and_no_other(tmp_path, metrics, reason, word):
    space = simulated.space(2)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    first, second = controller.next(), controller.next()
    report = {"fidelity": 1, "samples": 100, "metrics": metrics, "checkpoint": "c"}
    assert not controller.report(first.number, report)
    failed = controller.history.trials[first.number]
    assert (failed.state, failed.reason) == (State.FAIL, reason)
    assert word in failed.message
    controller.report(second.number, outcome(second.params, 1))
    assert controller.history.trials[second.number].state is State.PAUSED
    assert all(first.number not in recorded for recorded in controller.scheduler.rungs.values())


def test_the_start_configuration_is_never_stopped(tmp_path):
    space = simulated.space(4, start=({"quality": 0.0, "kind": "a"},))
    study = drive(simulated.begin(tmp_path / "s", space), space, lambda step: step)
    assert study.history().trials[0].state is State.COMPLETE


def test_a_duplicate_is_answered_from_the_journal(tmp_path):
    point = {"quality": 0.5, "kind": "a"}
    space = simulated.space(2, start=(point, point))
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    for fidelity in space.fidelity.reports:
        controller.report(assigned.number, outcome(assigned.params, fidelity))
    assert controller.next() is None
    copy = controller.history.trials[1]
    assert (copy.state, copy.duplicate_of) == (State.COMPLETE, 0)
    assert copy.value(space.objective) == controller.history.trials[0].value(space.objective)
    assert controller.finished
    assert controller.history.work == space.fidelity.max  # the copy cost nothing


def test_trials_that_differ_in_inert_parameters_are_duplicates(tmp_path):
    points = [{"quality": 0.5, "kind": "a", "momentum": value} for value in (0.1, 0.9)]
    space = replace(simulated.space(2, start=points), inert={"momentum": {"only_with": ["kind", "b"]}})
    study = simulated.begin(tmp_path / "s", space)
    space = SearchSpace.from_dict(study.history().study["space"])  # as it is resumed
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    for fidelity in space.fidelity.reports:
        controller.report(assigned.number, outcome(assigned.params, fidelity))
    assert controller.next() is None
    assert controller.history.trials[1].duplicate_of == 0


def test_trial_whose_process_keeps_dying_fails(tmp_path):
    space = simulated.space(1)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    number = controller.next().number
    for _ in range(MAX_LOST + 1):
        controller.lost(number, "killed")
    controller.requeue()
    assert controller.next() is None
    assert controller.history.trials[number].reason == "lost"


def test_journalled_report_is_not_recorded_twice(tmp_path):
    space = simulated.space(1)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    assert not controller.report(assigned.number, outcome(assigned.params, 1)), "it pauses"
    assert controller.next().known == 1
    assert controller.report(assigned.number, outcome(assigned.params, 1)), "its checkpoint was lost"
    assert len(controller.history.trials[0].reports) == 1


def test_second_driver_is_refused_and_names_the_holder(tmp_path):
    study = simulated.begin(tmp_path / "s", simulated.space(1))
    with pytest.raises(StudyError, match=r"held by process \d+ on .* since"):
        Study(study.folder).acquire()
    study.release()
    Study(study.folder).acquire()


def test_raising_the_target_extends_a_finished_study(tmp_path):
    space = simulated.space(2)
    study = drive(simulated.begin(tmp_path / "s", space), space, lambda step: step)
    study.append("target", trials=4)
    study = drive(study, space, lambda step: step)
    assert len(study.history().trials) == 4


@pytest.mark.parametrize("state", ["PRUNED", "FAIL"])
def test_trial_that_an_old_budget_ended_stays_ended(tmp_path, state):
    space = simulated.space(2)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    first = controller.next()
    controller.report(first.number, outcome(first.params, 1))
    study.append("end", trial=first.number, state=state, reason="budget", message="")
    again = TrialController(study, space, 0)
    assert again.history.trials[first.number].state.value == state
    assert again.next().number == 1
    assert again.history.counted_for_savings() == []


def test_consecutive_failures_stop_the_search(tmp_path):
    space = simulated.space(20)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    while (assigned := controller.next()) is not None:
        failure = {"reason": "error", "message": "KeyError: 'a mistake'"}
        controller.report(assigned.number, {"failure": failure})
    assert "KeyError: 'a mistake'" in controller.stop_reason
    assert len(controller.history.trials) == MAX_FAILURES
    assert not controller.finished, "the others are left for a resume"


def test_diverging_trials_do_not_stop_the_search(tmp_path):
    space = simulated.space(8)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    while (assigned := controller.next()) is not None:
        controller.report(assigned.number, {"failure": {"reason": "nan", "message": "the loss became nan"}})
    assert controller.finished


@pytest.mark.parametrize("between", ["nan", "duplicate"])
def test_ends_without_a_report_do_not_reset_the_failures(tmp_path, between):
    def suggest(space, history, seed, number):
        same = between == "duplicate" and number % 2 == 0
        params = {**space.fixed, "quality": 0.5 if same else 0.001 * number, "kind": "a"}
        return Suggestion(params, {}, {}, "sampler", {})

    space = simulated.space(30)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0, suggest)
    first = controller.next()
    controller.report(first.number, outcome(first.params, 1))
    while (assigned := controller.next()) is not None:
        diverges = between == "nan" and assigned.number % 2 == 0
        failure = {"reason": "nan" if diverges else "error", "message": "no space left"}
        controller.report(assigned.number, {"failure": failure})
    assert controller.stop_reason.startswith(f"{MAX_FAILURES} trials failed without a report in between")
    reasons = [trial.reason for trial in controller.history.trials.values()]
    assert reasons.count("error") == MAX_FAILURES
    assert between in reasons


def test_trials_that_fail_after_a_report_stop_the_search(tmp_path):
    space = simulated.space(60, scheduler=SchedulerConfig("none"))
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    while (assigned := controller.next()) is not None:
        assert controller.report(assigned.number, outcome(assigned.params, space.fidelity.reports[0]))
        controller.report(assigned.number, {"failure": {"reason": "error", "message": "x"}})
    assert controller.stop_reason.startswith(f"{MAX_FAILURES} trials failed")
    assert len(controller.history.trials) == MAX_FAILURES


def test_failures_count_over_resumed_runs(tmp_path):
    space = simulated.space(60)
    study = simulated.begin(tmp_path / "s", space)
    stops = []
    for _ in range(2 * MAX_FAILURES):
        controller = TrialController(study, space, 0)
        assigned = controller.next()
        controller.report(assigned.number, {"failure": {"reason": "error", "message": "x"}})
        stops.append(bool(controller.stop_reason))
        study.append("stop", why=controller.stop_reason or "SIGTERM")
    assert stops == [*[False] * (MAX_FAILURES - 1), True] * 2, "a resume after the stop begins the count anew"


def test_search_that_only_diverges_stops(tmp_path):
    space = simulated.space(60)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    while (assigned := controller.next()) is not None:
        controller.report(assigned.number, {"failure": {"reason": "nan", "message": "the loss became nan"}})
    assert controller.stop_reason.startswith(f"{MAX_DIVERGED} trials diverged")


def test_full_disk_loses_its_trial_and_stops_the_search(tmp_path):
    space = simulated.space(3)
    study = simulated.begin(tmp_path / "s", space)
    for _ in range(MAX_LOST + 2):
        controller = TrialController(study, space, 0)
        assigned = controller.next()
        assert assigned.number == 0
        assert controller.report(0, {"failure": {"reason": "disk", "message": "No space left on device: /x"}})
        assert "No space left on device: /x); make room, then resume" in controller.stop_reason
        assert controller.next() is None
    assert controller.history.trials[0].state is State.RUNNING
    assert controller.history.trials[0].lost == 0


def test_repeated_faults_of_the_machine_stop_the_search(tmp_path):
    space = simulated.space(3)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    failed = {"failure": {"reason": "machine", "message": "Input/output error: /x"}}
    assigned = controller.next()
    for turn in range(MAX_FAULTS):
        assert not controller.stop_reason, turn
        controller.report(assigned.number, failed)
    assert controller.stop_reason.startswith(f"the machine failed {MAX_FAULTS} times")
    assert not controller.history.of(State.FAIL)


def test_a_report_resets_the_faults_of_the_machine(tmp_path):
    space = simulated.space(1, scheduler=SchedulerConfig("none"))
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    assigned = controller.next()
    for fidelity in space.fidelity.reports:
        for _ in range(MAX_FAULTS - 1):
            controller.report(0, {"failure": {"reason": "machine", "message": "Input/output error: /x"}})
        controller.report(0, outcome(assigned.params, fidelity))
    assert not controller.stop_reason
    assert controller.history.trials[0].state is State.COMPLETE


def test_a_report_resets_the_failures(tmp_path):
    space = simulated.space(12)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    for turn in range(12):
        assigned = controller.next()
        failed = {"failure": {"reason": "error", "message": "x"}}
        controller.report(assigned.number, outcome(assigned.params, 1) if turn % 4 == 3 else failed)
    assert not controller.stop_reason


def test_trial_that_reports_between_deaths_is_kept(tmp_path):
    space = simulated.space(1)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    for fidelity in space.fidelity.reports:
        assigned = controller.next()
        controller.report(assigned.number, outcome(assigned.params, fidelity))
        controller.retry_or_give_up(assigned.number, "killed")
    assert controller.history.trials[0].state is State.COMPLETE


def test_paused_trial_that_tune_lost_is_queued(tmp_path):
    space = replace(simulated.space(2), scheduler=SchedulerConfig("pbt", {"perturbation_interval": 1}))
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    first, second = controller.next(), controller.next()
    controller.report(first.number, outcome(first.params, space.fidelity.reports[0]), Decision.PAUSE)
    assert controller.history.trials[first.number].state is State.PAUSED
    for _ in range(2):
        controller.retry_or_give_up(first.number, "its process died")
    again = controller.next()
    assert (again.number, again.known) == (first.number, space.fidelity.reports[0])
    assert controller.next() is None
    assert controller.history.trials[second.number].state is State.RUNNING


def test_failing_watcher_changes_no_decision(tmp_path):
    space = simulated.space(1)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)

    def broken(entry):
        raise BrokenPipeError("nobody reads")

    controller.watchers.append(broken)
    assigned = controller.next()
    controller.report(assigned.number, outcome(assigned.params, 1))
    assert controller.history.trials[0].state is State.PAUSED


def test_a_full_length_trial_whose_end_was_not_recorded_ends(tmp_path):
    space = simulated.space(1)
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    for fidelity in space.fidelity.reports:
        metrics = {"macro_f1": 0.5}
        entry = study.append("report", trial=0, fidelity=fidelity, samples=1, metrics=metrics, checkpoint="c")
        controller.history.apply(entry)
    assert not controller.report(assigned.number, outcome(assigned.params, 9))
    assert controller.history.trials[0].state is State.COMPLETE


def test_unanswered_duplicate_is_answered_on_resume(tmp_path):
    point = {"quality": 0.5, "kind": "a"}
    space = simulated.space(2, start=(point, point))
    study = simulated.begin(tmp_path / "s", space)
    controller = TrialController(study, space, 0)
    assigned = controller.next()
    for fidelity in space.fidelity.reports:
        controller.report(assigned.number, outcome(assigned.params, fidelity))
    first = controller.history.trials[0]
    fields = {"params": first.params, "sampled": first.sampled, "distributions": first.distributions}
    study.append("trial", trial=1, seed=1, origin="start", **fields)
    again = TrialController(reopen(study), space, 0)
    assert again.next() is None
    assert again.history.trials[1].duplicate_of == 0
