"""Optuna's samplers, asked statelessly: the same history, seed and trial number give the same suggestion."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import distribution_to_json

from lungtune import optuna_study
from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History
from lungtune.optuna_study import STARTUP

RANDOM = 3
"""With TPE, one trial in so many is drawn at random, so that what looks good early does not lock a search in
(``benchmarks/schedulers.md``)."""

TURNS = 3
"""Trials that every space of several has before any is preferred, where there are enough trials."""

_APART = 7_919
"""Keeps the draws of the space apart from those of its parameters."""


@dataclass(frozen=True)
class Suggestion:
    """A configuration to try: ``params`` has every parameter, ``sampled`` those the sampler chose."""

    params: dict[str, Any]
    sampled: dict[str, Any]
    distributions: dict[str, str]
    origin: str
    attrs: dict[str, Any]


def suggest(space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
    """Return trial ``number``'s configuration: the space's start points first, then the sampler's choice."""
    if space.members:
        return _of_several(space, history, seed, number)
    distributions = {name: distribution_to_json(axis) for name, axis in space.axes.items()}
    if number < len(space.start):
        defaults = {name: space.base.get(name, _default(space, name)) for name in space.axes}
        params = {**space.fixed, **defaults, **space.start[number]}
        sampled = {name: params[name] for name in space.axes}
        return Suggestion(params, sampled, distributions, "start", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna_study.for_sampler(space, history, make(space, seed, number))
        asked = study.ask(dict(space.axes))
    sampled = dict(asked.params)
    keeps_state = space.sampler in ("cmaes", "nsga2")  # these carry their state in attributes of their trials
    attrs = dict(study.get_trials(deepcopy=False)[asked.number].system_attrs) if keeps_state else {}
    origin = "random" if is_random(space, number) else "sampler"
    return Suggestion({**space.fixed, **sampled}, sampled, distributions, origin, attrs)


def _of_several(space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
    """Choose a member by what its trials scored, then ask it as if it were searched alone: its axes hang on it.

    First every member has its turns, or one whose source configuration does not suit the data would never be tried
    again: its start points, of which only the first is one that is never stopped, then suggestions.
    """
    count = len(space.members)
    turn, place = divmod(number, count)
    if turn < turns(space, space.trials):
        name, points = space.members[place].name, space.members[place].start[turn : turn + 1]
    else:
        chooser = replace(space, members=(), start=(), sampler="random" if space.sampler == "random" else "tpe")
        name, points = suggest(chooser, history, seed + _APART, number).sampled[SPACE], ()
    member = replace(space.of({SPACE: name}), start=points * (number + 1), sampler=space.sampler)
    own = History()
    own.study = history.study
    own.trials = {n: trial for n, trial in history.trials.items() if trial.params.get(SPACE) == name}
    member = replace(member, objective=space.objective, fidelity=space.fidelity)
    made = suggest(member, own, seed, number)
    distribution = {SPACE: distribution_to_json(space.axes[SPACE])}
    return Suggestion(
        {SPACE: name, **made.params},
        {SPACE: name, **made.sampled},
        {**distribution, **made.distributions},
        "sampler" if points and turn else made.origin,
        made.attrs,
    )


def turns(space: SearchSpace, trials: int) -> int:
    """Return how many trials every member of a search over several has before any is preferred."""
    return max(1, min(TURNS, trials // len(space.members)))


def _default(space: SearchSpace, name: str) -> Any:
    axis = space.axes[name]
    if isinstance(axis, optuna.distributions.CategoricalDistribution):
        return axis.choices[0]
    return axis.low  # type: ignore[attr-defined]


def is_random(space: SearchSpace, number: int) -> bool:
    """Whether trial ``number`` is drawn at random whatever the model says."""
    return space.sampler == "tpe" and number % RANDOM == RANDOM - 1


def make(space: SearchSpace, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that chooses trial ``number``."""
    seed = (seed * 1_000_003 + number) % 2**32
    if space.sampler == "random" or is_random(space, number):
        return optuna.samplers.RandomSampler(seed=seed)
    if space.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
    if space.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP)
    if space.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=2 * STARTUP)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP)
