"""Table-based simulator: same decisions as a search, and every epoch counted."""

import math

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from contenders import Lungtune, ShortPass, StockRay
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.trial import State
from lungtune.search import sampler
from simulator import Table, run, target

AXES = {"x": FloatDistribution(0, 1), "kind": CategoricalDistribution(["a", "b"])}


def table(rows=120, epochs=27, mode="max", misleading=False):
    """The best ``x`` is the largest; with ``misleading`` curves it is the worst up to epoch 5."""
    rng = np.random.default_rng(0)
    x = rng.permutation(rows) / (rows - 1)
    time = np.arange(1, epochs + 1)
    curves = x[:, None] * time / (time + 1)
    if misleading:
        curves[:, :5] = 0.1 * (1 - x[:, None])
    sign = 1 if mode == "max" else -1
    kinds = rng.choice(["a", "b"], rows)
    return Table(AXES, [{"x": float(v), "kind": str(k)} for v, k in zip(x, kinds)], sign * curves, mode)


def build(search, curves, seed, **options):
    return lambda choose: search(curves, choose, seed, **options)


def test_the_target_is_what_the_best_one_in_a_hundred_reach():
    assert target(np.arange(200.0), "max") == 198
    assert target(np.arange(200.0), "min") == 1
    assert target(np.array([1.0, math.nan, 3.0, 2.0]), "max") == 3


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("workers", [1, 4])
def test_promotion_reaches_the_target_in_half_the_epochs(mode, workers):
    curves = table(mode=mode)
    spent = {}
    for name in ("asha", "none"):
        runs = [
            run(curves, build(Lungtune, curves, s, scheduler=SchedulerConfig(name), kind="random"), 10_000, workers)
            for s in range(5)
        ]
        assert all(ended.reached for ended in runs)
        spent[name] = sum(ended.epochs for ended in runs)
    assert spent["asha"] < spent["none"] / 2


def test_random_trials_reach_targets_that_early_epochs_hide():
    """The budget of 460 full trainings suffices even if the first epochs show the reverse order."""
    curves = table(misleading=True, rows=60)
    assert run(curves, build(Lungtune, curves, 0, first=6.0), 460 * 27).reached
    assert not run(curves, build(ShortPass, curves, 0), 20 * 27).reached


def test_every_epoch_is_counted_once_and_the_budget_is_kept():
    curves = table()
    curves.target = math.inf
    searches = []

    def keep(choose):
        searches.append(Lungtune(curves, choose, 0))
        return searches[0]

    ended = run(curves, keep, 500)
    assert (ended.epochs, ended.reached) == (500, False)
    assert searches[0].controller.history.work == 500
    assert ended.trials == len(searches[0].controller.history.trials)


def test_suggestion_maps_to_the_nearest_untried_row():
    curves, tried = table(rows=5), set()
    taken = [curves.take({"x": 1.0, "kind": curves.rows[0]["kind"]}, tried)[0] for _ in range(5)]
    assert {row["x"] for row in taken} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert curves.take({"x": 0.0, "kind": "a"}, tried)[0] in curves.rows, "all may be tried again"


def test_a_curve_that_breaks_off_is_a_failed_trial():
    curves = table(rows=10)
    curves.curves[:, 1:] = math.nan
    searches = []

    def keep(choose):
        searches.append(Lungtune(curves, choose, 0, first=3.0))
        return searches[0]

    run(curves, keep, 40)
    assert {t.state for t in searches[0].controller.history.trials.values()} == {State.FAIL}


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_the_simulator_suggests_what_a_search_suggests(kind):
    curves = table()
    curves.target = math.inf
    compared = []

    class Checked(Lungtune):
        def _suggest(self, space, history, seed, number):
            quick = self._asker.suggest(space, history, seed, number)
            compared.append(quick == sampler.suggest(space, history, seed, number).sampled)
            return super()._suggest(space, history, seed, number)

    run(curves, build(Checked, curves, 3, kind=kind), 400)
    assert len(compared) > 20
    assert all(compared)


def test_stock_ray_is_rays_own_scheduler_and_searcher():
    curves = table()
    curves.target = math.inf
    searches = []

    def keep(choose):
        searches.append(StockRay(curves, choose, 0))
        return searches[0]

    run(curves, keep, 300)
    stock = searches[0]
    rungs = stock.scheduler._brackets[0]._rungs
    assert [milestone for milestone, _ in rungs] == [16, 4, 1]
    assert len(rungs[2][1]) == len(stock._trials)
    trials = stock.searcher._ot_study.trials
    assert {t.params["x"] for t in trials} <= {row["x"] for row in curves.rows}, "tried rows are recorded"
