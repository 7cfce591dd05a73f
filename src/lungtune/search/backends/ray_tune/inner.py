"""Schedulers of Ray Tune from the settings of a space. Time is counted in reports."""

from __future__ import annotations

import functools
import random
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, distribution_to_json
from ray.tune import schedulers as of_tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.pb2 import PB2

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History
from lungtune.search.backends.ray_tune import domains
from lungtune.search.sampler import Suggestion, suggest
from lungtune.search.tune_schedulers import decides, perturbable

_TIME = "training_iteration"


def scheduler(space: SearchSpace, seed: int) -> TrialScheduler | None:
    """Return the scheduler of Tune that decides on a space's trials; None where lungtune's own does.

    Args:
        space: what is searched.
        seed: of what PBT draws.

    """
    if not decides(space):
        return None
    settings: dict[str, Any] = dict(space.scheduler.settings)
    length = len(space.fidelity.reports)
    name = space.scheduler.name
    if name == "hyperband":
        return of_tune.HyperBandScheduler(time_attr=_TIME, max_t=length, **settings)
    if name == "bohb":
        return of_tune.HyperBandForBOHB(time_attr=_TIME, max_t=length, **settings)
    random.seed(seed)  # PBT draws from these modules' generators
    np.random.seed(seed)
    settings["custom_explore_fn"] = functools.partial(domains.accepted_params, space)
    if name == "pb2":
        bounds: dict[str, Any] = {
            axis: [space.axes[axis].low, space.axes[axis].high]  # type: ignore[attr-defined]
            for axis in perturbable(space)
        }
        return PB2(time_attr=_TIME, hyperparam_bounds=bounds, log_config=False, **settings)
    mutations = {axis: _mutation(space, axis) for axis in perturbable(space)}
    return of_tune.PopulationBasedTraining(
        time_attr=_TIME, hyperparam_mutations=mutations, log_config=False, **settings
    )


def _mutation(space: SearchSpace, name: str) -> Any:
    axis = space.axes[name]
    return list(axis.choices) if isinstance(axis, CategoricalDistribution) else domains.domain(axis)


class Bohb:
    """TuneBOHB behind the interface of ``sampler.suggest``; trials are known to it by their number.

    Args:
        space: what is searched.
        seed: of its draws.

    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        from ray.tune.search.bohb import TuneBOHB

        goal = space.objective
        self.searcher = TuneBOHB(domains.param_space(space), metric=goal.metric, mode=goal.mode, seed=seed)

    def suggest(self, space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
        """See ``sampler.suggest``: start points first, then BOHB's model."""
        if number < len(space.start):
            chosen = suggest(space, history, seed, number)
            self.searcher.trial_to_params[str(number)] = dict(chosen.sampled)
            self.searcher.running.add(str(number))
            return chosen
        drawn = self.searcher.suggest(str(number)) or {}
        sampled = {name: plain(value) for name, value in drawn.items()}
        distributions = {name: distribution_to_json(axis) for name, axis in space.axes.items()}
        return Suggestion({**space.fixed, **sampled}, sampled, distributions, "sampler", {})


def plain(value: Any) -> Any:
    """Return a plain Python value for one of numpy."""
    return value.item() if hasattr(value, "item") else value


def forward(searcher: Any, method: str, number: int, *args: Any) -> None:
    """Call a searcher's method for a trial, if the searcher knows it."""
    if str(number) in getattr(searcher, "trial_to_params", {}):
        getattr(searcher, method)(str(number), *args)
