"""Optuna's samplers, asked statelessly: the same history, seed and trial number give the same suggestion."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState

from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History, State, Trial

_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAIL: TrialState.FAIL,
    State.RUNNING: TrialState.RUNNING,
    State.PAUSED: TrialState.PRUNED,  # may go on, and is told anew when it did
}
STARTUP = 8
"""Random trials before a model-based sampler takes over; so many must have reached the level at which TPE compares."""

RANDOM = 3
"""Of so many trials TPE's model does not choose one: what looks good early would lock some searches in
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
        study = rebuild(space, history, make(space, seed, number))
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
    if turn < max(1, min(TURNS, space.trials // count)):
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


def rebuild(space: SearchSpace, history: History, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Return an in-memory Optuna study that tells the journal's story truly.

    TPE is shown trials that can be compared (Falkner et al., BOHB, ICML 2018): those that reached one level, the
    highest that at least ``STARTUP`` reached, by their best report up to there. For the other samplers, trials
    stopped or paused by ASHA are PRUNED with all their reports, and the score of a finished trial is its best report.
    Failed trials are FAIL. Trials outside the space as it is now (a start point, an older, wider space) are left out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if space.objective.mode == "max" else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    at = level(space, history)
    for trial in history.of(*_STATES):
        record = frozen(space, trial, at)
        if record is not None:
            study.add_trial(record)
    return study


def level(space: SearchSpace, history: History) -> float | None:
    """Return the passes at which trials are compared for the sampler; None when it is told all of every trial."""
    if space.sampler != "tpe":
        return None
    levels = space.fidelity.levels
    reached = [trial.fidelity + TOLERANCE for trial in history.trials.values() if trial.state is not State.FAIL]
    return next((at for at in reversed(levels) if sum(f >= at for f in reached) >= STARTUP), levels[0])


def frozen(space: SearchSpace, trial: Trial, at: float | None = None) -> optuna.trial.FrozenTrial | None:
    """Return one trial as Optuna is told of it, compared ``at`` so many passes; None when it is not told."""
    inside = all(_holds(axis, trial.params.get(name)) for name, axis in space.axes.items())
    value = trial.value(space.objective)
    if not inside or (trial.state is State.COMPLETE and math.isnan(value)):
        return None
    metric = space.objective.metric
    if at is not None and trial.state is not State.FAIL:
        best = trial.best(space.objective, up_to=at + TOLERANCE) if trial.fidelity >= at - TOLERANCE else None
        if best is None and trial.state is not State.RUNNING:
            return None
        return optuna.trial.create_trial(
            state=TrialState.RUNNING if best is None else TrialState.COMPLETE,
            value=None if best is None else best.metrics[metric],
            params={name: trial.params[name] for name in space.axes},
            distributions=dict(space.axes),
            user_attrs={"trial": trial.number},
        )
    steps = {}
    for report in trial.reports:
        best = trial.best(space.objective, up_to=report.fidelity)
        if best is not None:  # keyed by fidelity: samples at one rung differ by the batch size, and TPE ranks by step
            steps[round(report.fidelity * 1000)] = best.metrics[metric]
    return optuna.trial.create_trial(
        state=_STATES[trial.state],
        value=value if trial.state is State.COMPLETE else None,
        params={name: trial.params[name] for name in space.axes},
        distributions=dict(space.axes),
        intermediate_values=steps,
        system_attrs=dict(trial.sampler_attrs),
        user_attrs={"trial": trial.number, "reason": trial.reason},
    )


def _holds(axis: optuna.distributions.BaseDistribution, value: Any) -> bool:
    if isinstance(axis, optuna.distributions.CategoricalDistribution):
        return value in axis.choices
    inside = isinstance(value, (int, float)) and axis.low <= value <= axis.high  # type: ignore[attr-defined]
    return inside and axis._contains(axis.to_internal_repr(value))  # which raises for a log range and 0


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
