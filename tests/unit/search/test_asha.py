"""ASHA's decisions, and differences from Ray Tune's scheduler of that name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune import schedulers
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import Decision, SchedulerConfig
from lungtune.core.trial import Objective, Report, State, Trial

FIDELITY = Fidelity(max=9, min=1, eta=3)


CONTINUE, PAUSE, STOP = Decision


def asha(better="max", mode="stop"):
    return schedulers.create(SchedulerConfig("asha", {"mode": mode}), FIDELITY, Objective("m", better))


def record(scheduler, number, fidelity, score, random=False):
    """Record a report of a trial whose score so far is ``score``."""
    trial = Trial(number, {}, {}, {}, 0, "random" if random else "sampler")
    trial.reports = [Report(fidelity, 100, {"m": score})]
    return scheduler.record(trial, fidelity)


def test_the_first_at_a_rung_goes_on_and_a_worse_one_does_not():
    rungs = asha()
    assert record(rungs, 0, 1, 0.5) is CONTINUE
    assert record(rungs, 1, 1, 0.4) is STOP
    assert record(rungs, 2, 1, 0.6) is CONTINUE


def test_lower_is_better_for_a_minimised_objective():
    rungs = asha("min")
    assert record(rungs, 0, 1, 0.5) is CONTINUE
    assert record(rungs, 1, 1, 0.4) is CONTINUE
    assert record(rungs, 2, 1, 0.6) is STOP


@pytest.mark.parametrize("mode", ["promote", "stop"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_stops_and_never_counts(bad, mode):
    rungs = asha(mode=mode)
    assert record(rungs, 0, 1, bad) is STOP
    assert all(not recorded for recorded in rungs.rungs.values())


def test_without_a_scheduler_every_trial_goes_on():
    none = schedulers.create(SchedulerConfig("none"), FIDELITY, Objective("m"))
    assert [record(none, trial, 1, score) for trial, score in enumerate((0.5, 0.4, 0.3))] == [CONTINUE] * 3


def waiting(*scores, better="max"):
    """Trials of these scores, all paused at the first rung."""
    rungs = asha(better, "promote")
    for number, score in enumerate(scores):
        assert record(rungs, number, 1, score) is PAUSE
    return rungs, {number: paused(number, score) for number, score in enumerate(scores)}


def paused(number, score, fidelity=1.0):
    trial = Trial(number, {}, {}, {}, 0, "sampler", state=State.PAUSED)
    trial.reports = [Report(fidelity, 100, {"m": score})]
    return trial


def test_every_trial_pauses_and_the_best_third_goes_on():
    rungs, trials = waiting(0.5, 0.9)
    assert rungs.promotable(trials) is None, "a third of two is none"
    rungs, trials = waiting(0.5, 0.9, 0.7, 0.8, 0.1, 0.2)
    assert rungs.promotable(trials) == 1
    trials[1].state = State.RUNNING
    assert rungs.promotable(trials) == 3
    trials[3].state = State.RUNNING
    assert rungs.promotable(trials) is None
    rungs, trials = waiting(0.5, 0.9, 0.1, better="min")
    assert rungs.promotable(trials) == 2


def test_the_highest_rung_is_served_first():
    rungs, trials = waiting(0.5, 0.6, 0.7, 0.4, 0.3, 0.2, 0.9, 0.8, 0.1)
    for number in (6, 7, 2):
        record(rungs, number, 3, 0.9 - number / 100)
        trials[number] = paused(number, 0.9 - number / 100, fidelity=3.0)
    assert rungs.promotable(trials) == 2


def test_best_of_each_rung_is_promoted_when_no_trials_come():
    rungs, trials = waiting(0.5, 0.9)
    assert rungs.promotable(trials, last=True) == 1
    trials[1].state = State.RUNNING
    assert rungs.promotable(trials, last=True) is None


def test_failed_or_ended_trial_occupies_no_rank():
    rungs, trials = waiting(0.5, 0.9, 0.8, 0.7)
    trials[1].state = State.FAIL
    assert rungs.promotable(trials) == 2
    trials[2].state = State.PRUNED
    assert rungs.promotable(trials) == 3


def test_random_trials_are_compared_among_themselves():
    """Else suggestions that overrate early scores would keep them from being promoted."""
    rungs, trials = asha(mode="promote"), {}
    for number, score in enumerate((0.9, 0.9, 0.1, 0.9, 0.9, 0.3, 0.9, 0.9, 0.2)):
        record(rungs, number, 1, score, random=number % 3 == 2)
        trials[number] = paused(number, score)
    went_on = []
    while (number := rungs.promotable(trials)) is not None:
        trials[number].state = State.RUNNING
        went_on.append(number)
    assert went_on == [0, 1, 5]
    assert rungs.promotable(trials, last=True) is None, "the best of the rung has gone on"


def test_poor_trial_never_paused_occupies_no_rank():
    rungs, trials = waiting(0.1, 0.9, 0.8)
    trials[0].state = State.COMPLETE
    assert rungs.promotable(trials) == 1


def test_ray_continues_and_counts_nan_trials():
    """Defect of the stock scheduler; the test above excludes it here."""
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(min_t=1, max_t=9, reduction_factor=3, s=0)
    for trial, score in enumerate((0.5, 0.6, 0.7)):
        bracket.on_result(_RayTrial(str(trial)), 1, score)
    assert bracket.on_result(_RayTrial("nan"), 1, math.nan) == "CONTINUE"


class _RayTrial:
    def __init__(self, trial_id):
        self.trial_id = trial_id


ARRIVALS = st.lists(st.tuples(st.integers(0, 15), st.floats(0, 1)), max_size=60)


@given(ARRIVALS, st.integers(0, 60), st.sampled_from(["promote", "stop"]))
def test_rungs_rebuilt_from_reports_decide_equally(arrivals, cut, mode):
    """A new ASHA that is replayed the same reports makes the same later decisions, wherever a run is cut."""
    reached: dict[int, int] = {}
    reports = []
    for trial, score in arrivals:
        reached[trial] = reached.get(trial, 0) + 1
        if reached[trial] <= 9:
            reports.append((trial, float(reached[trial]), score))
    whole = asha(mode=mode)
    decisions = [record(whole, *report) for report in reports]
    again = asha(mode=mode)
    for report in reports[:cut]:
        record(again, *report)
    assert [record(again, *report) for report in reports[cut:]] == decisions[cut:]
    assert again.rungs == whole.rungs


def test_ray_saves_a_search_without_its_rungs():
    """Defect of ``Tuner.restore``, excluded here by the test above: the scheduler is not saved."""
    from ray.tune.execution.tune_controller import TuneController

    controller = TuneController.__new__(TuneController)
    left_out = [name for name in TuneController.__getstate__.__code__.co_consts if isinstance(name, tuple)]
    assert any("_scheduler_alg" in names for names in left_out)
    controller.__dict__ = {name: None for names in left_out for name in names if isinstance(name, str)}
    assert "_scheduler_alg" not in controller.__getstate__()
