"""Retraining of a recipe to weights and a report, with the session and loop of the search."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune import catalog
from lungtune.core import paths
from lungtune.core.io import log_stderr, stage, write_atomic
from lungtune.errors import StudyError
from lungtune.reopen import inspect, journal_opening, ledger_of, load, locate, owned
from lungtune.report import retrain_report
from lungtune.retraining import runs
from lungtune.retraining.frame import Options, Retraining


@dataclass(frozen=True)
class RetrainReport:
    """Result of a retraining.

    Attributes:
        folder: holds ``report.json``, ``report.md``, ``weights/`` and a copy of the recipe.
        content: what ``report.json`` holds.
        text: the report for a terminal.
    """

    folder: Path
    content: dict[str, Any]
    text: str

    @property
    def reproduced(self) -> str:
        """``yes``, ``no``, or ``not compared`` (the recipe was edited)."""
        return str(self.content["reproduction"]["reproduced"])

    @property
    def weights(self) -> Path:
        """The folder of the weights that load without lungtune."""
        return self.folder / "weights"


def retrain(
    path: Path,
    seeds: int = 1,
    test: bool = False,
    out: Path | None = None,
    data: str | None = None,
    blackout: bool = True,
    compare: str | None = None,
    bank: Path | None = None,
) -> RetrainReport:
    """Train a recipe to the fidelity its score was searched at; write weights and a report.

    Called again after an interruption, it resumes from its checkpoints.

    Args:
        path: the recipe.
        seeds: how many runs: the recipe's seed, then the ones after it. The weights are those of the first.
        test: open the locked test set, once per study.
        out: folder; by default ``models/<recipe's name>`` in lungtune's home.
        data: data source, if not the recipe's location. It must have the same split.
        blackout: with ``test`` and lung masks, train once more on images with black lungs, as a baseline.
        compare: ``NAME=VALUE,VALUE,...``: also train with each of these values and report the effect on the score.
        bank: folder of the recipe's synthetic images, if not the recipe's location.

    Raises:
        SpaceError: the recipe has mistakes or is none, or ``compare`` can't be read.
        DataError: the data have problems, or they or the synthetic images are not those the recipe was searched on.
        WeightsError: pretrained weights are not available.
        StudyError: the test set was opened before, or another process writes to ``out``.
        TrialError: the run of the recipe's own seed failed.
        CheckpointError: a trained model can't be read back to score the test set, which stays locked.
    """
    space, origin = load(path)
    if seeds < 1:
        raise StudyError(f"--seeds >= 1 must hold, but got {seeds}.")
    family = catalog.family(space.family, space.objective.task)
    kind: type[Retraining] = family.task(space.objective.task).retraining() or Retraining
    one = kind(path, space, origin, Options(seeds, test, blackout, compare, bank), family)
    with stage("Looking for the pretrained weights"):
        family.check(one.base)
    folder = out or paths.home() / "models" / path.stem
    ledger = ledger_of(path, origin)
    with ExitStack() as held:
        if test:
            held.enter_context(ledger.hold(one.mark))
        with stage("Opening weights and data"):
            inspection = inspect(space, origin, data, test)
            if test:
                locate(ledger, inspection.manifest)
                ledger.check(one.mark)
            one.check(inspection)
            held.enter_context(owned(folder))  # created only now: a refusal leaves no folder behind
            one.open(inspection, folder)
        one.train()
        with stage("Writing the weights"):
            _put(one, folder)
        with stage(f"Computing intervals over {inspection.manifest.unit}"):
            content = one.content()
        if test:
            with stage("Reopening the trained models"):
                one.before_test()
            opening = ledger.opened(one.mark, path.name)
            log_stderr(f"{opening.sentence().capitalize()}.")
            content["opening"] = opening.to_dict()
            with stage("Scoring on the test set"):
                one.score(content)
        with stage("Writing the report"):
            one.write(content)
        write_atomic(folder / "recipe.yaml", path.read_bytes())
        if test:
            retrain_report.note_opening(folder, content["opening"])
            values = {name: value["value"] for name, value in content["test"]["metrics"].items()}
            scores = {name: value for name, value in values.items() if value is not None}
            ledger.result(one.mark, path.name, scores, folder)
            journal_opening(origin, {**content["opening"], "file": path.name, "recipe": one.mark}, scores)
        runs.forget(folder / "work")
    return RetrainReport(folder, content, one.text(content))


def _put(one: Retraining, folder: Path) -> None:
    """Write the weights to a draft folder, then replace ``weights/`` by it; a failed write keeps the old one."""
    draft, place = folder / ".weights.draft", folder / "weights"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    one.weights(draft)
    if place.exists():
        shutil.rmtree(place)
    os.replace(draft, place)
