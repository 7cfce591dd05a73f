"""Results of Ray Tune in a study's journal, and their best as recipes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
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
    each: list[Any] = [results] if isinstance(results, tune.Result) else [results[i] for i in range(len(results))]
    ours = [result for result in each if result.metrics and "study" in result.metrics]
    if not ours:
        raise StudyError("results must be of lungtune.tune.trainable and have a report, but none is.")
    study = Study.open(Path(ours[0].metrics["study"]).name)
    study.acquire()
    try:
        history = study.history()
        space = SearchSpace.from_dict(history.study["space"])
        known = {trial.sampler_attrs.get(_TUNE_ID): number for number, trial in history.trials.items()}
        numbers = {str(name): number for name, number in known.items() if name}
        new = [result for result in ours if result.metrics[TRIAL_ID] not in numbers]
        numbers |= {result.metrics[TRIAL_ID]: len(history.trials) + i for i, result in enumerate(new)}
        written = {report.checkpoint for _, report in history.order}
        for event, fields in _ordered([_events(result, space, study, numbers) for result in new], written):
            study.append(event, **fields)
        number = len(history.trials) + len(new)
        study.append("target", trials=max(number, 1))
        study.append("stop", why="done", **environment.process())
    finally:
        study.release()
    return study.name


_Events = Iterator[tuple[str, dict[str, Any]]]


def _ordered(trials: list[_Events], written: set[str | None]) -> _Events:
    """Return the events of all trials, each perturbation after the report whose checkpoint it takes.

    Raises:
        StudyError: that report is in no result.
    """
    waiting = [(next(events), events) for events in trials]
    while waiting:
        rest = []
        for entry, events in waiting:
            pending: tuple[str, dict[str, Any]] | None = entry
            while pending is not None and (pending[0] != "perturb" or pending[1]["checkpoint"] in written):
                written.add(pending[1].get("checkpoint"))
                yield pending
                pending = next(events, None)
            if pending is not None:
                rest.append((pending, events))
        if len(rest) == len(waiting) and all(one is two for (one, _), (two, _) in zip(rest, waiting, strict=True)):
            raise StudyError("results must hold the trials whose checkpoints were taken; pass the whole ResultGrid.")
        waiting = rest


def _events(result: Any, space: SearchSpace, study: Study, numbers: Mapping[str, int]) -> _Events:
    """Return the journal events of a trial."""
    rows = _rows(result)
    mine = {"trial": numbers[result.metrics[TRIAL_ID]]}
    params = _params(space, result, rows[0])
    yield (
        "trial",
        {
            **mine,
            "params": params,
            "sampled": {name: params[name] for name in space.axes},
            "distributions": {name: distribution_to_json(axis) for name, axis in space.axes.items()},
            "seed": int(result.metrics["seed"]),
            "origin": "tune",
            "sampler_attrs": {_TUNE_ID: result.metrics[TRIAL_ID]},
        },
    )
    yield "start", {**mine, "attempt": 1, "fidelity": 0.0}
    reached, segment = 0.0, 0
    for row in rows:
        if int(row.get("segment", 0)) > segment:
            if row["donor"] not in numbers:
                raise StudyError(f"results must hold trial {row['donor']}, a donor; pass the whole ResultGrid.")
            given = {"fidelity": reached, "params": _params(space, result, row), "checkpoint": row["donor_checkpoint"]}
            reached, segment = float(row["donor_fidelity"]), int(row["segment"])
            yield "perturb", {**mine, "donor": numbers[row["donor"]], "donor_fidelity": reached, **given}
        if row["fidelity"] <= reached + TOLERANCE:
            continue
        reached = float(row["fidelity"])
        yield (
            "report",
            {
                **mine,
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
    yield "end", {**mine, "state": state.value, "reason": "error" if failed else "tune", "message": message}


def _params(space: SearchSpace, result: Any, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter that a trial had at a report."""
    config = result.config or {}
    return configuration(space, {name: row.get(f"config/{name}", value) for name, value in config.items()})


_OWN = (
    "fidelity",
    "samples",
    "seed",
    "segment",
    "donor_fidelity",
    "training_iteration",
    "timestamp",
    "pid",
    "iterations_since_restore",
)


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a result that are metrics of lungtune."""
    numbers = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name not in _OWN}
    return {
        name: float(value)
        for name, value in numbers.items()
        if not isinstance(value, bool) and math.isfinite(value) and not name.startswith(("time_", "config/"))
    }


def _rows(result: Any) -> list[dict[str, Any]]:
    """Return a trial's results in order; only the last one where Tune logged none."""
    frame = result.metrics_dataframe
    rows = [] if frame is None else frame.to_dict("records")
    return [row for row in rows or [result.metrics] if row and not math.isnan(row.get("fidelity", math.nan))]
