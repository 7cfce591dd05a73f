"""Stateless suggestions by Optuna's samplers: a function of history, seed and trial number."""

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
"""With TPE, every third trial is drawn at random, against premature convergence (``benchmarks/schedulers.md``)."""

TURNS = 3
"""Most trials that each of several spaces has before the sampler chooses among them."""

_APART = 7_919
"""Seed offset of the choice of a space, against correlation with the draws of its parameters."""


@dataclass(frozen=True)
class Suggestion:
    """A suggested configuration.

    Attributes:
        params: all parameters by name.
        sampled: the searched ones.
        distributions: of these, as Optuna's JSON.
        origin: ``start``, ``sampler`` or ``random``.
        attrs: system attributes of samplers that keep their state there.
    """

    params: dict[str, Any]
    sampled: dict[str, Any]
    distributions: dict[str, str]
    origin: str
    attrs: dict[str, Any]


def suggest(space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
    """Return trial ``number``'s configuration: the space's start points first, then the sampler's suggestions."""
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
        blind = space.sampler == "random" or is_random(space, number)
        study = optuna_study.for_sampler(space, History() if blind else history, make(space, seed, number))
        asked = study.ask(dict(space.axes))
    sampled = dict(asked.params)
    keeps_state = space.sampler in ("cmaes", "nsga2")  # they keep their state in trial attributes
    attrs = dict(study.get_trials(deepcopy=False)[asked.number].system_attrs) if keeps_state else {}
    origin = "random" if is_random(space, number) else "sampler"
    return Suggestion({**space.fixed, **sampled}, sampled, distributions, origin, attrs)


def _of_several(space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
    """Choose a member space by the scores of its trials, then suggest within it as if it were searched alone.

    First each member has :func:`turns` trials, so that a poor source configuration does not exclude it: its start
    points, of which only the first is never stopped, then suggestions.
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
    suggestion = suggest(member, own, seed, number)
    distribution = {SPACE: distribution_to_json(space.axes[SPACE])}
    return Suggestion(
        {SPACE: name, **suggestion.params},
        {SPACE: name, **suggestion.sampled},
        {**distribution, **suggestion.distributions},
        "sampler" if points and turn else suggestion.origin,
        suggestion.attrs,
    )


def turns(space: SearchSpace, trials: int) -> int:
    """Return the number of trials that each member space has before the sampler chooses among them, >= 1."""
    return max(1, min(TURNS, trials // len(space.members)))


def _default(space: SearchSpace, name: str) -> Any:
    axis = space.axes[name]
    if isinstance(axis, optuna.distributions.CategoricalDistribution):
        return axis.choices[0]
    return axis.low  # type: ignore[attr-defined]


def is_random(space: SearchSpace, number: int) -> bool:
    """True if trial ``number`` is drawn uniformly at random, without the sampler's model."""
    return space.sampler == "tpe" and number % RANDOM == RANDOM - 1


def make(space: SearchSpace, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of trial ``number``, seeded by ``seed`` and ``number``."""
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
