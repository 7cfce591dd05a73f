"""Export of a study's best trials as recipe files."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

from lungtune import catalog, reopen, summary
from lungtune.core import comparison, ledger, paths, recipe, synthetic
from lungtune.core import params as parameters
from lungtune.core.io import stage, write_atomic
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.task import Predictions
from lungtune.core.trial import History, Report, State, Trial
from lungtune.data.manifest import Manifest
from lungtune.errors import StudyError
from lungtune.stats import bootstrap
from lungtune.stats.bootstrap import Interval


def recipes() -> Path:
    """Return the folder recipes are written to unless another is named."""
    return paths.home() / "recipes"


def export(study: str, top: int = 1, out: Path | None = None) -> list[Path]:
    """Write the best trials of a study as recipes ``<study>-<rank>.yaml``.

    Args:
        study: name of the study; it may still be running.
        top: how many; fewer are written when fewer trials have finished with a score.
        out: folder; by default ``recipes/`` in lungtune's home. A file of the same name is replaced.

    Returns:
        The files, best first. Each is whole or not there.

    Raises:
        StudyError: there is no such study, ``top`` < 1, or no trial has finished with a score.
    """
    if top < 1:
        raise StudyError(f"--top >= 1 must hold, but got {top}.")
    opened = Study.open(study)
    history = opened.history()
    ranked = history.ranked()
    if not ranked:
        states = [f"{len(history.of(state))} {state.value.lower()}" for state in State if history.of(state)]
        raise StudyError(
            f"the study '{study}' has no finished trial with a score yet ({', '.join(states) or 'no trial'}); "
            f"go on with: lungtune search --resume --study {study}"
        )
    kept = StudyPredictions(opened, history)
    with stage(f"Computing intervals over {kept.unit}"):
        honest = kept.corrected(ranked)
    written = []
    for rank, trial in enumerate(ranked[:top], start=1):
        path = (out or recipes()) / f"{study}-{rank}.yaml"
        write_atomic(path, _text(kept, trial, rank, honest if rank == 1 else None, path).encode())
        written.append(path)
    return written


def following(study: str, path: Path) -> list[str]:
    """Return the next commands for a recipe: ``retrain``, the task's own, and ``retrain --compare`` of its ablations.

    Args:
        study: name of the study.
        path: one of the files :func:`export` wrote.
    """
    recipe = catalog.space(str(path))
    searched = SearchSpace.from_dict(Study.open(study).history().study["space"])
    mine = next((m for m in searched.members if m.name == recipe.provenance.get("space")), searched)
    family = catalog.family(recipe.family, recipe.objective.task)
    own = [command for command, _ in family.task(recipe.objective.task).next_commands(str(path))]
    return [f"lungtune retrain {path}", *own, *comparison.commands(path, family, mine, recipe.fixed)]


class StudyPredictions:
    """The predictions that a study keeps of its trials' best reports, and their scores."""

    def __init__(self, study: Study, history: History) -> None:
        self.study = study
        self.history = history
        manifest = Manifest.load(study.split_path, history.study["data"].get("hash"))
        self.manifest = manifest
        self.patients = manifest.parts["validation"].group
        self.unit = manifest.unit
        """Units of intervals: patients or images."""
        self.source = manifest.source
        """The data source with an absolute path."""

    @property
    def opened(self) -> str:
        """How often the test part is known to have been opened."""
        try:
            known = reopen.openings(self.manifest)
        except StudyError as error:
            return f"content of the test part; {error}"
        last = f", last {known[-1].who}" if known else ""
        return f"content of the test part; opened {len(known)} times before this export{last}"

    def of(self, trial: Trial) -> Predictions | None:
        """Return the predictions of the trial's best report, None when they are lost."""
        task = summary.task_of(self.history)
        predictions = summary.kept(self.study, _best(self.history, trial), task)
        return predictions if predictions is not None and len(predictions) == len(self.patients) else None

    def interval(self, trial: Trial) -> Interval:
        """Return the trial's score with its patient interval; the bounds are NaN when the predictions are lost."""
        predictions, value = self.of(trial), trial.value(self.history.objective)
        if predictions is None:
            return Interval(value, math.nan, math.nan)
        scorer = predictions.scorer(bootstrap.groups_of(self.patients, len(predictions)))
        return dataclasses.replace(bootstrap.scored(scorer, self.history.objective.own), value=value)

    def corrected(self, ranked: list[Trial]) -> Interval | None:
        """Return the expected score of the study's best on new patients; None when it cannot be computed."""
        arguments = self.history.objective, summary.task_of(self.history)
        return summary.corrected(self.study, ranked, self.patients, *arguments)


def _best(history: History, trial: Trial) -> Report:
    report = trial.best(history.objective)
    assert report is not None  # ranked trials have a score
    return report


def _schedule(space: SearchSpace) -> str:
    """Return a line on the segments of a recipe; empty where it has none."""
    if not space.segments:
        return ""
    return f"\nTrained in {len(space.segments) + 1} segments, from other trials' weights: see segments."


def _text(kept: StudyPredictions, trial: Trial, rank: int, honest: Interval | None, path: Path) -> str:
    study, history, source, score = kept.study, kept.history, kept.source, kept.interval(trial)
    about, report = history.study, _best(history, trial)
    searched = SearchSpace.from_dict(about["space"])
    *before, last = trial.lineage_at(report)
    configuration = searched.configuration(last.params)
    family = catalog.family(configuration.family, searched.objective.task)
    space = dataclasses.replace(
        searched.of(last.params),
        objective=searched.objective,
        fidelity=searched.fidelity,
        axes={},
        base=configuration.base,
        fixed=configuration.params,
        start=(),
        notes=(),
        seed=last.seed,
        segments=tuple(dataclasses.replace(each, params=searched.configuration(each.params).params) for each in before),
        data=source,
        inert=parameters.inert(family.Base, family.Params),  # as the recipe will be read
    )
    others = len(history.ranked()) - 1
    metric = space.objective.metric + ("" if space.objective.mode == "max" else " (lower is better)")
    bank = about["data"].get("bank") if any(each.ratio > 0 for each in synthetic.settings(space)) else None
    block: dict[str, Any] = {
        "study": study.name,
        "study_id": about["id"],
        "space": searched.of(last.params).name,
        "profile": searched.profile,
        "trial": trial.number,
        "rank": (rank, f"of {others + 1} trials with a score"),
        "state": (trial.state.value, trial.reason),
        "fidelity": (report.fidelity, f"passes at the best report, of {searched.fidelity.max:g}"),
        "samples": (report.samples, "cases trained on, counted with repetition"),
        "split": (about["data"]["hash"], "hash of the split manifest; retraining refuses other data"),
        "split_seed": about["seed"],
        "question": (
            ledger.question(kept.study.first()),
            "how the study began; one question opens the test set once",
        ),
        "test_part": (kept.manifest.locked.key, kept.opened),
        "classes": list(about["data"]["classes"]),
        **({"bank": (dict(bank), "synthetic images; retraining refuses others")} if bank else {}),
        "score": (score.to_dict(), f"validation {metric}, 95 % bootstrap interval over {kept.unit}"),
        **(
            {"corrected": (honest.to_dict(), f"expected on new {kept.unit} of the best of all reports")}
            if honest
            else {}
        ),
        "validation": ({k: round(v, 6) for k, v in report.metrics.items()}, "all metrics of that report"),
        "exported": time.strftime("%Y-%m-%d %H:%M:%S"),
        "git": dict(about.get("git") or {}),
        "versions": {str(name): str(version) for name, version in (about.get("versions") or {}).items()},
        "fingerprint": (
            recipe.fingerprint(space, report.fidelity, about["data"]["hash"], bank),
            "of all that decides the weights",
        ),
    }
    correction = "" if honest is None else f"; corrected for having been chosen on them: {honest}"
    heading = (
        f"Recipe: trial {trial.number} of the study {study.name}, rank {rank} of {others + 1} by {metric}."
        f"\n{space.objective.metric} {score} on the validation {kept.unit}{correction}."
        f"\nRetrain: lungtune retrain {path}"
        f"\nSame format as a search space; every parameter is one value."
        f"{_schedule(space)}"
    )
    return recipe.dump(space, family, block, heading)
