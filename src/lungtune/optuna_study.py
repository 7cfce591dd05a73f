"""Optuna study built from a journal, for samplers, charts and storages."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History, Objective, Report, State, Trial

STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAIL: TrialState.FAIL,
    State.RUNNING: TrialState.RUNNING,
    State.PAUSED: TrialState.PRUNED,  # a paused trial that was resumed is shown again
}

STEPS = 1000
"""Optuna's steps in a pass: steps are whole numbers, fidelities are not. Trials at one rung are at one step, whatever
their batch size."""

STARTUP = 8
"""Number of random trials before a model-based sampler, and of trials that must reach the level TPE compares at."""


def empty(
    objective: Objective,
    sampler: optuna.samplers.BaseSampler | None = None,
    name: str | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> optuna.Study:
    """Return a study without trials, of the objective's direction; in memory without a ``storage``."""
    direction = StudyDirection.MAXIMIZE if objective.mode == "max" else StudyDirection.MINIMIZE
    return optuna.create_study(direction=direction, sampler=sampler, study_name=name, storage=storage)


def for_sampler(
    space: SearchSpace, history: History, sampler: optuna.samplers.BaseSampler | None = None
) -> optuna.Study:
    """Return the study that a sampler draws its suggestions from.

    For TPE, it holds comparable trials (Falkner et al., BOHB, ICML 2018): those that reached one level, the
    highest that at least ``STARTUP`` reached, by their best report up to there. For the other samplers, trials
    stopped or paused by the scheduler are PRUNED with all their reports, and the score of a finished trial is its best
    report. Failed trials are FAIL. Trials outside the space as it is now (a start point, an older, wider space) are
    left out. A trial whose parameters were perturbed counts with those of the report that it is compared by.
    One that began with another trial's weights is left out: its score is not that of its parameters.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = empty(space.objective, sampler)
    at = level(space, history)
    records = [record for trial in history.of(*STATES) if (record := _kept(space, trial, at)) is not None]
    held = getattr(getattr(study._storage, "_studies", {}).get(study._study_id), "trials", None)
    if space.sampler == "tpe" and held == []:  # Optuna copies and checks each trial that is added, every time
        for number, record in enumerate(records):
            record.number = record._trial_id = number
        held.extend(records)
    else:
        study.add_trials(records)
    return study


def _kept(space: SearchSpace, trial: Trial, at: float | None) -> FrozenTrial | None:
    """Return :func:`frozen` of a trial, built again only when the trial or the level changed."""
    version = at, space.sampler, trial.state, len(trial.reports), trial.segment
    axes, of, record = trial.derived.get(space.name, (None, None, None))
    if axes is not space.axes or of != version:
        record = frozen(space, trial, at)
        trial.derived[space.name] = space.axes, version, record
    return record


def level(space: SearchSpace, history: History) -> float | None:
    """Return the passes at which trials are compared for the sampler; None if it uses all reports."""
    if space.sampler != "tpe":
        return None
    levels = space.fidelity.levels
    reached = [trial.reached + TOLERANCE for trial in history.trials.values() if trial.state is not State.FAIL]
    return next((at for at in reversed(levels) if sum(f >= at for f in reached) >= STARTUP), levels[0])


def frozen(space: SearchSpace, trial: Trial, at: float | None = None) -> FrozenTrial | None:
    """Return one trial as a record for the sampler, compared at ``at`` passes; None if it is left out."""
    chosen = trial.best_params(space.objective, math.inf if at is None else at + TOLERANCE)
    inside = all(_holds(axis, chosen.get(name)) for name, axis in space.axes.items())
    value = trial.value(space.objective)
    if not inside or trial.donor is not None or (trial.state is State.COMPLETE and math.isnan(value)):
        return None
    params, axes = {name: chosen[name] for name in space.axes}, dict(space.axes)
    if at is not None and trial.state is not State.FAIL:
        reached = trial.reached >= at - TOLERANCE
        best = trial.score(space.objective, up_to=at + TOLERANCE) if reached else math.nan
        if math.isnan(best) and trial.state is not State.RUNNING:
            return None
        state = TrialState.RUNNING if math.isnan(best) else TrialState.COMPLETE
        return _record(state, best, params, axes, user_attrs={"trial": trial.number})
    steps = {_step(report): trial.score(space.objective, up_to=report.fidelity) for report in trial.reports}
    return _record(
        STATES[trial.state],
        value if trial.state is State.COMPLETE else math.nan,
        params,
        axes,
        steps,
        system_attrs=dict(trial.sampler_attrs),
        user_attrs={"trial": trial.number, "reason": trial.reason},
    )


def for_charts(history: History, fidelity: float | None = None) -> optuna.Study:
    """Return the study that Optuna's charts are drawn from; trials keep their numbers, steps are samples seen.

    Args:
        history: the trials.
        fidelity: passes at which all trials that got so far are compared, as COMPLETE with their best score up to
            there; without it, trials keep their states and final scores.
    """
    objective = history.objective
    study = empty(objective, name=str(history.study["name"]))
    ended = (State.COMPLETE, State.PRUNED, State.PAUSED)
    compared = {t.number for t in (history.of(*ended) if fidelity is None else history.ranked())}
    for _, trial in sorted(history.trials.items()):
        record = _charted(trial, objective, fidelity) if trial.number in compared else None
        study.add_trial(record or create_trial(state=TrialState.FAIL))  # keeps the others' numbers; no chart shows it
    return study


def _charted(trial: Trial, objective: Objective, fidelity: float | None) -> FrozenTrial | None:
    """Return one trial as the charts show it; None if it has no score there or its record is damaged."""
    if fidelity is not None and trial.reached < fidelity - 1e-9:
        return None
    up_to = math.inf if fidelity is None else fidelity + 1e-9
    score, chosen = trial.score(objective, up_to), trial.best_params(objective, up_to)
    if math.isnan(score):
        return None
    steps = {round(float(r.samples)): r.metrics.get(objective.metric, math.nan) for r in trial.reports}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a start value outside the ranges, reported when the space was read
        try:
            axes = {key: json_to_distribution(text) for key, text in trial.distributions.items()}
            params = {key: chosen[key] if trial.segment else trial.sampled[key] for key in axes}
            state = TrialState.COMPLETE if fidelity is not None else STATES[trial.state]
            return _record(state, score, params, axes, steps)
        except (ValueError, KeyError):
            return None


def for_storage(history: History) -> list[FrozenTrial]:
    """Return all trials by number, as a storage of Optuna's keeps them.

    - State: the trial's; PAUSED is PRUNED, for no worker trains it. The user attribute ``state`` has the trial's own.
    - Value: the best report's score; FAIL and RUNNING have none.
    - Intermediate values: the score of each report, at step ``STEPS`` x passes; ``fidelities`` {step: passes}.
    - Params: what was sampled, with its distribution. A parameter whose distribution differs between the spaces of a
      search over several is named ``space.parameter``. A value outside its distribution, as of a start point, can't be
      a param in Optuna: it is in ``outside``, what was not sampled in ``fixed``.
    """
    space = SearchSpace.from_dict(history.study["space"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unusual distributions: reported when the space was read
        return [_stored(trial, space, history.objective) for _, trial in sorted(history.trials.items())]


def _stored(trial: Trial, space: SearchSpace, objective: Objective) -> FrozenTrial:
    """Return one trial as :func:`for_storage` says."""
    params, axes, outside = {}, {}, {}
    for name, text in trial.distributions.items():
        axis, value, key = json_to_distribution(text), trial.sampled.get(name), _unambiguous(name, trial, space)
        if _holds(axis, value):
            params[key], axes[key] = value, axis
        else:
            outside[key] = value
    value = trial.value(objective) if trial.state not in (State.FAIL, State.RUNNING) else math.nan
    state = STATES[trial.state]
    if state is TrialState.COMPLETE and math.isnan(value):
        state = TrialState.FAIL  # Optuna has no COMPLETE without a value
    steps = {_step(report): report.metrics.get(objective.metric, math.nan) for report in trial.reports}
    record = _record(state, value, params, axes, steps, user_attrs=_attributes(trial, objective, outside))
    record.datetime_start = datetime.fromtimestamp(trial.suggested_at)
    if state.is_finished():  # a paused trial: at its last report
        reported_at = trial.reports[-1].time if trial.reports else trial.suggested_at
        record.datetime_complete = datetime.fromtimestamp(trial.ended_at or reported_at)
    return record


def _unambiguous(name: str, trial: Trial, space: SearchSpace) -> str:
    """Return a parameter's name, with its space's where spaces that are searched together differ in it."""
    axes = [member.axes[name] for member in space.members if name in member.axes]
    return f"{trial.params[SPACE]}.{name}" if any(axis != axes[0] for axis in axes) else name


def _attributes(trial: Trial, objective: Objective, outside: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's user attributes; what has no value is left out."""
    best = trial.best(objective)
    report = {} if best is None else {"best_fidelity": best.fidelity, "best_samples": best.samples}
    metrics = {} if best is None else best.metrics
    optional = {
        "reason": trial.reason,
        "message": trial.message,
        "outside": dict(outside),
        "checkpoint": best.checkpoint if best else None,
    }
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "origin": trial.origin,
        "seed": trial.seed,
        "fidelity": trial.fidelity,
        **report,
        **{f"metrics.{name}": value for name, value in metrics.items() if math.isfinite(value)},
        "fidelities": {str(_step(report)): report.fidelity for report in trial.reports},
        "fixed": {name: value for name, value in trial.params.items() if name not in trial.sampled},
        **{name: value for name, value in optional.items() if value},
        **({} if trial.duplicate_of is None else {"duplicate_of": trial.duplicate_of}),
    }


def study_attributes(history: History) -> dict[str, Any]:
    """Return a stored study's user attributes: what was searched, on which data, by which metric."""
    about, space = history.study, SearchSpace.from_dict(history.study["space"])
    versions = about.get("versions") or {}
    return {
        "study_id": about["id"],
        "space": space.name,
        "family": space.family,
        "profile": space.profile,
        "metric": space.objective.full,
        "mode": space.objective.mode,
        "sampler": space.sampler,
        "scheduler": space.scheduler.to_dict(),
        "fidelity": {**dataclasses.asdict(space.fidelity), "rungs": list(space.fidelity.rungs)},
        "steps_per_pass": STEPS,
        "trials": history.target,
        "seed": about["seed"],
        "data": about["data"]["source"],
        "data_hash": about["data"]["hash"],
        "baselines": history.baselines,
        "lungtune": versions.get("lungtune", ""),
    }


def _step(report: Report) -> int:
    return round(report.fidelity * STEPS)


def _record(
    state: TrialState,
    value: float,
    params: Mapping[str, Any],
    axes: Mapping[str, BaseDistribution],
    steps: Mapping[int, float] | None = None,
    **attrs: Any,
) -> FrozenTrial:
    """Return a trial; a ``value`` of NaN is none, ``steps`` (step to score) that are not finite are left out."""
    return create_trial(
        state=state,
        value=None if math.isnan(value) else value,
        params=dict(params),
        distributions=dict(axes),
        intermediate_values={step: score for step, score in (steps or {}).items() if math.isfinite(score)},
        **attrs,
    )


def _holds(axis: BaseDistribution, value: Any) -> bool:
    if isinstance(axis, CategoricalDistribution):
        return value in axis.choices
    inside = isinstance(value, (int, float)) and axis.low <= value <= axis.high  # type: ignore[attr-defined]
    return inside and axis._contains(axis.to_internal_repr(value))  # which raises for a log range and 0
