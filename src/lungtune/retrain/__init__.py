"""From a recipe to weights and an honest report, with the same session and loop as the search."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtune import catalog
from lungtune.core import paths
from lungtune.core.family import Generator
from lungtune.core.io import write_atomic
from lungtune.errors import StudyError
from lungtune.report import retrain_report
from lungtune.retrain import runs
from lungtune.retrain.classifier import ClassifierRetraining
from lungtune.retrain.generator import GeneratorRetraining
from lungtune.retrain.reopen import inspect, ledger_of, load, owned
from lungtune.retrain.retraining import Asked, Retraining
from lungtune.tasks.generation import report_markdown

__all__ = ["RetrainReport", "retrain"]


@dataclass(frozen=True)
class RetrainReport:
    """What a retraining produced.

    Attributes:
        folder: holds ``report.json``, ``report.md``, ``weights/`` and a copy of the recipe.
        content: what ``report.json`` holds.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def reproduced(self) -> str:
        """``yes``, ``no``, or ``not compared`` (the recipe was edited)."""
        return str(self.content["reproduction"]["reproduced"])

    @property
    def text(self) -> str:
        """The report for a terminal."""
        return (
            report_markdown.text(self.content) if _draws(self.content["family"]) else retrain_report.text(self.content)
        )

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

    An interrupted retraining goes on from its checkpoints when it is called again.

    Args:
        path: the recipe.
        seeds: how many runs: the recipe's seed, then the ones after it. The weights are those of the first.
        test: open the locked test set, once per study.
        out: folder; by default ``models/<recipe's name>`` in lungtune's home.
        data: the data source, when it lies elsewhere than the recipe says. It must hold the same split.
        blackout: with ``test`` and lung masks, train once more on images with black lungs, as a baseline.
        compare: ``NAME=VALUE,VALUE,...``: train the same with each of these values too, and say whether it helps.
        bank: folder of the recipe's synthetic images, when they lie elsewhere than the recipe says.

    Raises:
        SpaceError: the recipe has mistakes or is none, or ``compare`` can't be read.
        DataError: the data have problems, or they or the synthetic images are not those the recipe was searched on.
        WeightsError: pretrained weights cannot be had.
        StudyError: the test set was opened before, or another process writes to ``out``.
        TrialError: the run of the recipe's own seed failed.
        CheckpointError: a trained model can't be read back to score the test set, which stays locked.
    """
    space, origin = load(path)
    if seeds < 1:
        raise StudyError(f"--seeds >= 1 must hold, but got {seeds}.")
    kind: type[Retraining] = GeneratorRetraining if _draws(space.family) else ClassifierRetraining
    one = kind(path, space, origin, Asked(seeds, test, blackout, compare, bank))
    one.trainable.check(one.base)
    folder = out or paths.home() / "models" / path.stem
    ledger = ledger_of(path, origin)
    with ExitStack() as held:
        if test:
            held.enter_context(ledger.hold(one.mark))
        inspection = inspect(space, origin, data, test)
        held.enter_context(owned(folder))  # made only now: a refusal leaves no folder behind
        one.open(inspection, folder)
        one.train()
        _put(one, folder)
        content = one.content()
        if test:
            one.before_test()
            ledger.opened(one.mark, path.name)
            one.score(content)
        one.write(content)
        write_atomic(folder / "recipe.yaml", path.read_bytes())
        if test:
            scores = {name: value["value"] for name, value in content["test"]["metrics"].items()}
            ledger.result(one.mark, path.name, scores, folder)
        runs.forget(folder / "work")
    return RetrainReport(folder, content)


def _draws(family: str) -> bool:
    return isinstance(catalog.family(family), Generator)


def _put(one: Retraining, folder: Path) -> None:
    """Put the weights in their place: whole, or what lay there before stays."""
    draft, place = folder / ".weights.draft", folder / "weights"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    one.weights(draft)
    if place.exists():
        shutil.rmtree(place)
    os.replace(draft, place)
