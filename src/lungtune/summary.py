"""``summary.json``: machine-readable result of a study, rebuilt from the journal and the checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lungtune import catalog
from lungtune.core.family import Family
from lungtune.core.io import write_atomic
from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.study import Study
from lungtune.core.task import Predictions, Task
from lungtune.core.trial import History, Objective, Report, State, Trial
from lungtune.report import leaderboard as leaderboard_text
from lungtune.stats import bootstrap, leaderboard, selection
from lungtune.tasks import stored_predictions


def build(study: Study, patients: np.ndarray, unit: str = "patients") -> dict[str, Any]:
    """Return the summary as JSON-able data.

    Args:
        study: the study.
        patients: a patient id per validation case ``(N,)``, in the order of the data set.
        unit: what these are (:func:`lungtune.data.patients.unit`).

    Returns:
        ``study``, ``id``, ``unit``, ``space``, ``profile``, ``objective``, ``data``, ``seed``, ``states`` {state:
        count}, ``work`` {passes, passes_if_none_were_stopped, saved}, ``baselines`` {start {trial, value, interval,
        reached (passes)}, constant {metric: value}, and further baselines in the same form}, ``best`` {trial, params,
        value, scores (of its best report), interval, corrected, gain_over_start (null too where the start was trained
        for less), gain_over_constant, gains {baseline: value}, collapsed (a sentence, empty when it is not)} or null,
        and ``trials``: number, state, reason, message, origin, params, seed, duplicate_of, value, best {fidelity,
        checkpoint}, passes, reports; ``segments`` [{params, seed, until}] where its best report has more than one.
        ``params`` are those of the best report. Gains are positive where the best trial is better, whatever the metric.
    """
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    objective = space.objective
    ended = history.counted_for_savings()
    spent = sum(trial.work for trial in ended)
    full = spent + sum(space.fidelity.max - trial.fidelity for trial in ended)
    return {
        "schema": 1,
        "study": study.name,
        "id": history.study["id"],
        "unit": unit,
        "space": space.name,
        "family": space.family,
        "profile": space.profile,
        "objective": {"metric": objective.metric, "mode": objective.mode, "task": objective.task},
        "data": history.study["data"],
        "seed": history.study["seed"],
        "trials_wanted": history.target,
        "states": {state.value: len(history.of(state)) for state in State},
        "work": {
            "passes": round(history.work, 4),
            "passes_if_none_were_stopped": round(full, 4),
            "saved": round(1 - spent / full, 4) if full else 0.0,
        },
        "baselines": {"constant": {}, **history.baselines, "start": _start(study, history, patients)},
        "best": _best(study, history, patients),
        "leaderboard": _leaderboard(study, space, history, patients, unit),
        "trials": [_trial(trial, history) for _, trial in sorted(history.trials.items())],
    }


def write(study: Study, patients: np.ndarray, unit: str = "patients") -> dict[str, Any]:
    """Build the summary and write it to the study's folder."""
    summary = build(study, patients, unit)
    save(study, summary)
    return summary


def save(study: Study, summary: Mapping[str, Any]) -> None:
    """Write a summary to the study's folder.

    Raises:
        OSError: the disk is full or not writable; what was there before is untouched.
    """
    write_atomic(study.summary_path, json.dumps(summary, indent=1, ensure_ascii=False).encode())
    if summary["leaderboard"]:
        write_atomic(study.folder / "leaderboard.md", leaderboard_text.markdown(summary["leaderboard"]).encode())


def _leaderboard(
    study: Study, space: SearchSpace, history: History, patients: np.ndarray, unit: str
) -> dict[str, Any] | None:
    """Compare the best trials of several spaces; None when there are not two with a score."""
    contenders, candidates, spent = [], {}, {}
    for member in space.members:
        mine = [trial for trial in history.ranked() if trial.params[SPACE] == member.name]
        predictions = _best_kept(study, history, mine[0]) if mine else None
        if predictions is None or len(predictions) != len(patients):
            continue
        contenders.append(leaderboard.Contender(member.name, predictions, mine[0].value(history.objective)))
        candidates[member.name] = _candidates(study, mine, predictions, task_of(history))
        every = [t for t in history.trials.values() if t.params[SPACE] == member.name and t.duplicate_of is None]
        best = {"trial": mine[0].number, "params": mine[0].best_params(history.objective)}
        spent[member.name] = {**best, "trials": len(every), "passes": round(sum(t.work for t in every), 4)}
    if len(contenders) < 2:
        return None
    board = leaderboard.board(patients, contenders, history.objective, candidates, unit=unit)
    return {**board, "rows": [row | spent[row["name"]] for row in board["rows"]]}


def family_of(history: History) -> Family[Any, Any]:
    """Return a study's family; of several spaces, the first one's, whose task is that of all.

    Raises:
        SpaceError: there is no such family any more.
    """
    space = history.study["space"]
    return catalog.family([*space.get("members", ()), space][0]["family"], history.objective.task)


def task_of(history: History) -> Task:
    """Return the task of a study's objective.

    Raises:
        SpaceError: there is no such family any more, or it has no such task.
    """
    return family_of(history).task(history.objective.task)


def kept(study: Study, report: Report | None, task: Task) -> Predictions | None:
    """Return the predictions in a report's checkpoint, or None if it is gone."""
    if report is None or report.checkpoint is None:
        return None
    return stored_predictions.load(study.folder / report.checkpoint, task)


def _best_kept(study: Study, history: History, trial: Trial) -> Predictions | None:
    return kept(study, trial.best(history.objective), task_of(history))


def reported(study: Study, trial: Trial, task: Task) -> list[np.ndarray]:
    """Return the stored table of every report of a trial, such as probabilities ``(N, C)``.

    A report whose own table ``<checkpoint>.npy`` is gone counts if its checkpoint is still there, as the best one is.
    """
    tables = []
    for report in trial.reports:
        if report.checkpoint is None:
            continue
        try:
            tables.append(np.load((study.folder / report.checkpoint).with_suffix(".npy"), allow_pickle=False))
        except (OSError, ValueError, EOFError):
            if (predictions := kept(study, report, task)) is not None:
                tables.append(predictions.table())
    return tables


def _candidates(study: Study, trials: Sequence[Trial], like: Predictions, task: Task) -> list[Predictions]:
    """Return every report of some trials whose table has the shape of ``like``; the shared tensors are ``like``'s."""
    tables = [table for trial in trials for table in reported(study, trial, task)]
    shape = like.table().shape
    return [like.with_table(table) for table in tables if table.shape == shape]


def corrected(
    study: Study, ranked: Sequence[Trial], patients: Sequence[str] | np.ndarray, objective: Objective, task: Task
) -> bootstrap.Interval | None:
    """Return what the best report of the best trial can be expected to score on new patients.

    Trial and report were both selected on the validation patients, so every report of every trial is a candidate.

    Args:
        study: the study.
        ranked: its trials with a score.
        patients: an id per validation case ``(N,)``.
        objective: what trials and reports were chosen by.
        task: the objective's task.

    Returns:
        The score, or None when it cannot be computed: all predictions are lost, or there is one patient only.
    """
    left = (kept(study, trial.best(objective), task) for trial in ranked)
    predictions = next((each for each in left if each is not None and len(each) == len(patients)), None)
    if predictions is None or len(set(patients)) < 2:
        return None
    candidates = _candidates(study, ranked, predictions, task) or [predictions]
    return selection.expected(candidates, patients, objective.own, objective.mode)


def _trial(trial: Trial, history: History) -> dict[str, Any]:
    objective = history.objective
    best = trial.best(objective)
    value = trial.value(objective)
    lineage = trial.lineage_at(best) if best else trial.lineage
    return {
        "number": trial.number,
        "state": trial.state.value,
        "reason": trial.reason,
        "message": trial.message,
        "origin": trial.origin,
        "params": trial.best_params(objective),
        "seed": trial.seed,
        "duplicate_of": trial.duplicate_of,
        "value": None if math.isnan(value) else value,
        "best": {"fidelity": best.fidelity, "checkpoint": best.checkpoint} if best else None,
        "passes": trial.work if trial.duplicate_of is None else 0.0,
        "reports": [{"fidelity": r.fidelity, "samples": r.samples, "metrics": dict(r.metrics)} for r in trial.reports],
        **({"segments": [asdict(segment) for segment in lineage]} if len(lineage) > 1 else {}),
    }


def _reference(history: History) -> Trial | None:
    """Return the source configuration all are compared with: of several spaces, that of the best trial's space."""
    ranked, starts = history.ranked(), [t for _, t in sorted(history.trials.items()) if t.origin == "start"]
    own = [t for t in starts if ranked and t.params.get(SPACE) == ranked[0].params.get(SPACE)]
    return next((trial.as_begun() for trial in own or starts), None)


def _compares(start: Trial, best: Trial, history: History) -> bool:
    """True if the source configuration was trained as long as the best trial was for its score, or to its end."""
    report = best.best(history.objective)
    return start.state is State.COMPLETE or (report is not None and start.reached >= report.fidelity - TOLERANCE)


def _start(study: Study, history: History, patients: np.ndarray) -> dict[str, Any] | None:
    trial = _reference(history)
    if trial is None or math.isnan(trial.value(history.objective)):
        return None
    params = trial.best_params(history.objective)
    score = _score(study, history, trial, patients)
    return {"trial": trial.number, "params": params, **score, "reached": trial.reached}


def _score(study: Study, history: History, trial: Trial, patients: np.ndarray) -> dict[str, Any]:
    predictions = _best_kept(study, history, trial)
    score: dict[str, Any] = {"value": trial.value(history.objective), "interval": None}
    if predictions is not None:
        scorer = predictions.scorer(bootstrap.groups_of(patients, len(predictions)))
        score["interval"] = bootstrap.scored(scorer, history.objective.own).to_dict()
    return score


def _best(study: Study, history: History, patients: np.ndarray) -> dict[str, Any] | None:
    ranked = history.ranked()
    if not ranked:
        return None
    best, metric, sign = ranked[0], history.objective.metric, history.objective.sign
    predictions = _best_kept(study, history, best)
    honest = corrected(study, ranked, patients, history.objective, task_of(history))
    value = best.value(history.objective)
    gains = {name: sign * (value - known[metric]) for name, known in history.baselines.items() if metric in known}
    result: dict[str, Any] = {
        "trial": best.number,
        "params": best.best_params(history.objective),
        "fidelity": best.best(history.objective).fidelity,  # type: ignore[union-attr]
        "scores": dict(best.best(history.objective).metrics),  # type: ignore[union-attr]
        **_score(study, history, best, patients),
        "corrected": None if honest is None else honest.to_dict(),
        "gain_over_start": None,
        "gain_over_constant": gains.get("constant"),
        "gains": gains,
        "collapsed": "" if predictions is None else predictions.collapsed(history.study["data"]["classes"]),
    }
    start = _reference(history)
    other = _best_kept(study, history, start) if start and _compares(start, best, history) else None
    if predictions is not None and other is not None:
        groups = bootstrap.groups_of(patients, len(predictions))
        one, two = (predictions.scorer(groups), other.scorer(groups))[::sign]
        result["gain_over_start"] = bootstrap.between(one, two, history.objective.own).to_dict()
    return result
