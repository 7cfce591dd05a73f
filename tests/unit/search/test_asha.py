"""ASHA's decisions, and where Ray Tune's own scheduler of that name goes wrong."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune.core.fidelity import Fidelity
from lungtune.core.trial import Objective
from lungtune.search.asha import Asha

FIDELITY = Fidelity(max=9, min=1, eta=3)


def asha(mode="max"):
    return Asha(FIDELITY, Objective("m", mode))


def test_the_first_at_a_rung_goes_on_and_a_worse_one_does_not():
    rungs = asha()
    assert rungs.goes_on(0, 1, 0.5)
    assert not rungs.goes_on(1, 1, 0.4)
    assert rungs.goes_on(2, 1, 0.6)


def test_lower_is_better_when_the_objective_says_so():
    rungs = asha("min")
    assert rungs.goes_on(0, 1, 0.5)
    assert rungs.goes_on(1, 1, 0.4)
    assert not rungs.goes_on(2, 1, 0.6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_stops_and_never_counts(bad):
    rungs = asha()
    assert not rungs.goes_on(0, 1, bad)
    assert all(not recorded for recorded in rungs.rungs.values())


def test_ray_lets_nan_go_on_and_counts_it():
    """The defect of the stock scheduler that the test above guards against."""
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket = _Bracket(min_t=1, max_t=9, reduction_factor=3, s=0)
    for trial, score in enumerate((0.5, 0.6, 0.7)):
        bracket.on_result(_RayTrial(str(trial)), 1, score)
    assert bracket.on_result(_RayTrial("nan"), 1, math.nan) == "CONTINUE"


class _RayTrial:
    def __init__(self, trial_id):
        self.trial_id = trial_id


@given(st.lists(st.tuples(st.integers(0, 15), st.floats(0, 1)), max_size=60), st.integers(0, 60))
def test_rungs_rebuilt_from_the_reports_decide_alike(arrivals, cut):
    """Cutting a run anywhere and showing a new ASHA the same reports changes no later decision."""
    reached: dict[int, int] = {}
    reports = []
    for trial, score in arrivals:
        reached[trial] = reached.get(trial, 0) + 1
        if reached[trial] <= 9:
            reports.append((trial, float(reached[trial]), score))
    whole = asha()
    decisions = [whole.goes_on(*report) for report in reports]
    again = asha()
    for report in reports[:cut]:
        again.goes_on(*report)
    assert [again.goes_on(*report) for report in reports[cut:]] == decisions[cut:]
    assert again.rungs == whole.rungs


def test_ray_saves_a_search_without_its_rungs():
    """The defect of ``Tuner.restore`` the test above guards against: what is saved has no scheduler."""
    from ray.tune.execution.tune_controller import TuneController

    controller = TuneController.__new__(TuneController)
    left_out = [name for name in TuneController.__getstate__.__code__.co_consts if isinstance(name, tuple)]
    assert any("_scheduler_alg" in names for names in left_out)
    controller.__dict__ = {name: None for names in left_out for name in names if isinstance(name, str)}
    assert "_scheduler_alg" not in controller.__getstate__()
