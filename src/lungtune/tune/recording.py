"""Results of Ray Tune in a study's journal, and their best as recipes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from ray import tune
from ray.tune.result import TRIAL_ID

from lungtune import export as exporting
from lungtune.core import environment
from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search.backends.ray_tune.trainable import configuration

_TUNE_ID = "tune_trial_id"


def export(results: tune.ResultGrid | tune.Result, top: int = 1, out: str | Path | None = None) -> list[Path]:
    """Write the best trials of an experiment as recipes; :func:`record` comes first.

    The corrected score counts all trials of the experiment that are recorded: pass the whole grid where there is one.

    Args:
        results: of ``Tuner.fit()``, or one of them.
        top: how many.
        out: folder; by default ``recipes/`` in lungtune's home.

    Returns:
        The files, best first.

    Raises:
        StudyError: no result is of a trainable of lungtune's, or none has a score.
    """
    study = record(results)
    return exporting.export(study, top, Path(out) if out is not None else None)


def record(results: tune.ResultGrid | tune.Result) -> str:
    """Add an experiment's trials to the journal of their study; return its name. Trials that are there already stay.

    The study can then be exported, reported and tracked like any other: ``lungtune export --study NAME``.

    Args:
        results: of ``Tuner.fit()``, or one of them.

    Raises:
        StudyError: no result is of a trainable of lungtune's, or the study is held by another process.
    """
    each = [results] if isinstance(results, tune.Result) else list(results)
    ours = [result for result in each if result.metrics and "study" in result.metrics]
    if not ours:
        raise StudyError("results must be of lungtune.tune.trainable and have a report, but none is.")
    study = Study.open(Path(ours[0].metrics["study"]).name)
    study.acquire()
    try:
        history = study.history()
        space = SearchSpace.from_dict(history.study["space"])
        known = {trial.sampler_attrs.get(_TUNE_ID) for trial in history.trials.values()}
        study.append("open", **environment.process())
        number = len(history.trials)
        for result in ours:
            if result.metrics[TRIAL_ID] not in known:
                for event, fields in _events(result, space, study, number):
                    study.append(event, trial=number, **fields)
                number += 1
        study.append("target", trials=max(number, 1))
        study.append("stop", why="done", **environment.process())
    finally:
        study.release()
    return study.name


def _events(result: tune.Result, space: SearchSpace, study: Study, number: int) -> Iterable[tuple[str, dict[str, Any]]]:
    """Return the journal events of a trial."""
    assert result.metrics is not None
    params = configuration(space, result.config or {})
    yield (
        "trial",
        {
            "params": params,
            "sampled": {name: params[name] for name in space.axes},
            "distributions": {name: distribution_to_json(axis) for name, axis in space.axes.items()},
            "seed": int(result.metrics["seed"]),
            "origin": "tune",
            "sampler_attrs": {_TUNE_ID: result.metrics[TRIAL_ID]},
        },
    )
    yield "start", {"attempt": 1, "fidelity": 0.0}
    reached = 0.0
    for row in _rows(result):
        if row["fidelity"] <= reached + TOLERANCE:
            continue
        reached = float(row["fidelity"])
        yield (
            "report",
            {
                "fidelity": reached,
                "samples": int(row["samples"]),
                "metrics": _metrics(row),
                "checkpoint": str(Path(row["checkpoint"]).relative_to(study.folder.resolve())),
                "seconds": float(row.get("time_this_iter_s", 0.0)),
            },
        )
    failed = result.error is not None
    complete = reached >= space.fidelity.max - TOLERANCE
    state = State.FAIL if failed else State.COMPLETE if complete else State.PRUNED
    message = str(result.error)[:2000] if failed else ""
    yield "end", {"state": state.value, "reason": "error" if failed else "tune", "message": message}


_OWN = ("fidelity", "samples", "seed", "training_iteration", "timestamp", "pid", "iterations_since_restore")


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a result that are metrics of lungtune."""
    numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name not in _OWN}
    return {
        name: float(value)
        for name, value in numbers.items()
        if not isinstance(value, bool) and math.isfinite(value) and not name.startswith(("time_", "config/"))
    }


def _rows(result: tune.Result) -> list[dict[str, Any]]:
    """Return a trial's results in order; only the last one where Tune logged none."""
    frame = result.metrics_dataframe
    rows = [] if frame is None else frame.to_dict("records")
    return [row for row in rows or [result.metrics] if row and not math.isnan(row.get("fidelity", math.nan))]
