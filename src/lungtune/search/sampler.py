"""Optuna's samplers, asked statelessly: the same history, seed and trial number give the same suggestion."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import TrialState

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, State, Trial

_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAIL: TrialState.FAIL,
    State.RUNNING: TrialState.RUNNING,
    State.PAUSED: TrialState.PRUNED,  # may go on, and is told anew when it did
}
STARTUP = 8
"""Random trials before a model-based sampler takes over."""


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
    distributions = {name: distribution_to_json(axis) for name, axis in space.axes.items()}
    if number < len(space.start):
        defaults = {name: _default(space, name) for name in space.axes}
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
    return Suggestion({**space.fixed, **sampled}, sampled, distributions, "sampler", attrs)


def rebuild(space: SearchSpace, history: History, sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Return an in-memory Optuna study that tells the journal's story truly.

    Trials stopped or paused by ASHA are PRUNED with all their reports; failed ones are FAIL; the score of a
    finished trial is its best report. Trials outside the space as it is now (a start point, an older, wider space)
    are left out.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if space.objective.mode == "max" else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    for trial in history.of(*_STATES):
        record = frozen(space, trial)
        if record is not None:
            study.add_trial(record)
    return study


def frozen(space: SearchSpace, trial: Trial) -> optuna.trial.FrozenTrial | None:
    """Return one trial as Optuna is told of it; None when it is outside the space."""
    inside = all(_holds(axis, trial.params.get(name)) for name, axis in space.axes.items())
    value = trial.value(space.objective)
    if not inside or (trial.state is State.COMPLETE and math.isnan(value)):
        return None
    metric = space.objective.metric
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
    return isinstance(value, (int, float)) and axis._contains(axis.to_internal_repr(value))


def _default(space: SearchSpace, name: str) -> Any:
    axis = space.axes[name]
    if isinstance(axis, optuna.distributions.CategoricalDistribution):
        return axis.choices[0]
    return axis.low  # type: ignore[attr-defined]


def make(space: SearchSpace, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that chooses trial ``number``."""
    seed = (seed * 1_000_003 + number) % 2**32
    if space.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if space.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP)
    if space.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP)
    if space.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=2 * STARTUP)
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP)
