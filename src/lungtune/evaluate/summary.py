"""``summary.json``: what a study found, for machines; rebuilt from the journal and the checkpoints at any time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lungtune.core.journal import write_atomic
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History, Report, State, Trial
from lungtune.evaluate import bootstrap, selection


def build(study: Study, patients: np.ndarray) -> dict[str, Any]:
    """Return the summary as JSON-able data.

    Args:
        study: the study.
        patients: a patient id per validation case ``(N,)``, in the order of the checkpoints' probabilities.

    Returns:
        ``study``, ``id``, ``space``, ``profile``, ``objective``, ``data``, ``seed``, ``states`` {state: count},
        ``work`` {passes, passes_if_none_were_stopped, saved}, ``baselines`` {constant {metric: value},
        start {trial, value, interval}}, ``best`` {trial, params, value, interval, corrected, gain_over_start,
        gain_over_constant} or null, and ``trials``: number, state, reason, message, origin, params, seed,
        duplicate_of, value, best {fidelity, checkpoint}, passes, reports.
    """
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    objective = space.objective
    ended = [t for t in history.of(State.COMPLETE, State.PRUNED) if t.duplicate_of is None]
    full = len(ended) * space.fidelity.max
    spent = sum(trial.fidelity for trial in ended)
    return {
        "schema": 1,
        "study": study.name,
        "id": history.study["id"],
        "space": space.name,
        "family": space.family,
        "profile": space.profile,
        "objective": {"metric": objective.metric, "mode": objective.mode},
        "data": history.study["data"],
        "seed": history.study["seed"],
        "trials_wanted": history.target,
        "states": {state.value: len(history.of(state)) for state in State},
        "work": {
            "passes": round(history.work, 4),
            "passes_if_none_were_stopped": round(full, 4),
            "saved": round(1 - spent / full, 4) if full else 0.0,
        },
        "baselines": {"constant": history.baselines.get("constant", {}), "start": _start(study, history, patients)},
        "best": _best(study, history, patients),
        "trials": [_trial(trial, history) for _, trial in sorted(history.trials.items())],
    }


def write(study: Study, patients: np.ndarray) -> dict[str, Any]:
    """Build the summary and write it to the study's folder."""
    summary = build(study, patients)
    write_atomic(study.summary_path, json.dumps(summary, indent=1, ensure_ascii=False).encode())
    return summary


def probabilities(study: Study, report: Report | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the (labels ``(N,)``, probabilities ``(N, C)``) of a report's checkpoint, or None if it is gone."""
    if report is None or report.checkpoint is None:
        return None
    path = study.folder / report.checkpoint
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    return tensors["labels"], tensors["probabilities"]


def _trial(trial: Trial, history: History) -> dict[str, Any]:
    objective = history.objective
    best = trial.best(objective)
    value = trial.value(objective)
    return {
        "number": trial.number,
        "state": trial.state.value,
        "reason": trial.reason,
        "message": trial.message,
        "origin": trial.origin,
        "params": trial.params,
        "seed": trial.seed,
        "duplicate_of": trial.duplicate_of,
        "value": None if math.isnan(value) else value,
        "best": {"fidelity": best.fidelity, "checkpoint": best.checkpoint} if best else None,
        "passes": trial.fidelity if trial.duplicate_of is None else 0.0,
        "reports": [{"fidelity": r.fidelity, "samples": r.samples, "metrics": dict(r.metrics)} for r in trial.reports],
    }


def _start(study: Study, history: History, patients: np.ndarray) -> dict[str, Any] | None:
    trial = next((t for _, t in sorted(history.trials.items()) if t.origin == "start"), None)
    if trial is None or math.isnan(trial.value(history.objective)):
        return None
    return {"trial": trial.number, "params": trial.params, **_score(study, history, trial, patients)}


def _score(study: Study, history: History, trial: Trial, patients: np.ndarray) -> dict[str, Any]:
    found = probabilities(study, trial.best(history.objective))
    score: dict[str, Any] = {"value": trial.value(history.objective), "interval": None}
    if found is not None:
        score["interval"] = bootstrap.interval(*found, patients, history.objective.metric).to_dict()
    return score


def _best(study: Study, history: History, patients: np.ndarray) -> dict[str, Any] | None:
    ranked = history.ranked()
    if not ranked:
        return None
    best, metric = ranked[0], history.objective.metric
    found = probabilities(study, best.best(history.objective))
    constant = history.baselines.get("constant", {}).get(metric)
    result: dict[str, Any] = {
        "trial": best.number,
        "params": best.params,
        "fidelity": best.best(history.objective).fidelity,  # type: ignore[union-attr]
        **_score(study, history, best, patients),
        "corrected": None,
        "gain_over_start": None,
        "gain_over_constant": None if constant is None else best.value(history.objective) - constant,
    }
    if found is None:
        return result
    start = next((t for _, t in sorted(history.trials.items()) if t.origin == "start"), None)
    other = probabilities(study, start.best(history.objective)) if start else None
    if start is not None and other is not None:
        result["gain_over_start"] = bootstrap.paired(found[0], found[1], other[1], patients, metric).to_dict()
    tables = [t for t in (probabilities(study, trial.best(history.objective)) for trial in ranked) if t is not None]
    if len(set(patients)) > 1:
        corrected = selection.corrected(found[0], [t[1] for t in tables], patients, metric)
        result["corrected"] = corrected.to_dict()
    return result


def read(path: Path) -> dict[str, Any]:
    """Read a summary written by :func:`write`."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
