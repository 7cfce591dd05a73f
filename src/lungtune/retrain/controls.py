"""Controls: what can be scored without looking at a lung. From the outside of files, and from images with black lungs.

A model that a control equals has not shown that it reads lungs. The outline of a blackened lung stays visible, so the
second control knows shape and size of the lungs, and everything around them.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core import synthetic
from lungtune.core.space import SearchSpace
from lungtune.errors import TrialError
from lungtune.retrain import runs
from lungtune.tasks.classification import baselines

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection, Part
    from lungtune.engine.session import Session

METADATA, BLACKOUT = "metadata only", "lungs blacked out"
NO_MASKS = "Not computed: it needs lung masks. Name their folder in the data source: masks=DIR."
LEFT_OUT = "Not computed: --no-blackout left it out."
_FACTS = ("width", "height", "mode", "type")


def outside(inspection: Inspection, part: str) -> dict[str, np.ndarray]:
    """Return what the files of a part look like from outside: a column ``(N,)`` per property, in the part's order."""
    facts = inspection.facts[~inspection.facts.index.duplicated()]
    rows = facts.loc[list(inspection.manifest.parts[part].path)]
    return {name: np.array(rows[name].tolist()) for name in _FACTS}


def metadata(inspection: Inspection, train: Part, name: str, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
    """Compare a model with a forest that sees files from outside only (:func:`lungtune.tasks.classification.baselines.beside`).

    Args:
        inspection: holds the facts of the files.
        train: the training fold, which the forest is fitted on.
        name: of the part to score: ``validation`` or ``test``.
        part: that part.
        probabilities: the model's ``(N, C)`` on it.
    """
    classes = inspection.manifest.classes
    blind = baselines.metadata(outside(inspection, "train"), train.labels, outside(inspection, name), classes)
    what = "What the files look like from outside (size, mode, type)"
    return baselines.beside(part.labels, probabilities, blind, part.patients, classes, what)


def masked(inspection: Inspection) -> bool:
    """Whether any case has a lung mask."""
    return inspection.manifest.masked


def darkened(part: Part) -> Part:
    """Return the cases of a part that have a mask, with black lungs."""
    if part.masks is None:
        rows = np.zeros(len(part), bool)
        images = np.asarray(part.images[rows])
    else:
        rows = np.asarray(part.masked, bool)
        images = np.where(part.masks[rows] > 0, np.uint8(0), part.images[rows])
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    kept = {name: each[rows] for name, each in values.items() if each is not None}
    return dataclasses.replace(part, **{**kept, "images": images})


class Blackout:
    """The same recipe, trained on images whose lungs are black. It stays in its session until it has been scored.

    Args:
        trainable: the model family.
        base: its ``Base``.
        dataset: opened with masks.
        space: the recipe.
        fidelity: passes to train.
        folder: of its checkpoints, from which an interrupted training goes on.

    Attributes:
        problem: why it could not be trained, as a sentence; empty when it was.
    """

    def __init__(
        self, trainable: Any, base: Any, dataset: Dataset, space: SearchSpace, fidelity: float, folder: Path
    ) -> None:
        self.classes = dataset.classes
        self.problem = _obstacle(dataset)
        if self.problem:
            return
        print(
            "the recipe is trained once more, on images with black lungs: as long again (--no-blackout leaves it out)",
            file=sys.stderr,
            flush=True,
        )
        parts = {"train": darkened(dataset.train), "validation": darkened(dataset.validation), "synthetic": None}
        dark = dataclasses.replace(dataset, **parts)
        assert space.seed is not None
        # synthetic images show lungs, and have no masks: as many real ones, blackened, take their place
        mixed = synthetic.Settings.from_mapping(space.fixed).wants_bank
        changed = {synthetic.IMAGES: synthetic.DUPLICATES} if mixed else {}
        self._run = runs.Run(space.seed, folder, changed=changed)
        self._session = _session(trainable, base, dark, space)
        runs.train(self._session, space, [self._run], fidelity, "training with black lungs")
        if self._run.failure is not None:
            self.problem = f"Not computed: the training with black lungs failed: {self._run.failure}."
            return
        runs.resume(self._session, space, self._run, fidelity)

    def beside(self, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
        """Compare a model with this one on the cases of a part that have a mask.

        Args:
            part: opened with masks.
            probabilities: the model's ``(N, C)`` on the images as they are.

        Returns:
            As :func:`lungtune.tasks.classification.baselines.beside`, or ``missing``.
        """
        if self.problem:
            return baselines.missing(self.problem)
        if part.masks is None or not np.any(part.masked):
            return baselines.missing("Not computed: no case of this part has a lung mask.")
        rows, blind = np.asarray(part.masked, bool), np.zeros_like(probabilities)
        blind[rows] = self._session.judge(self._run.seed, darkened(part))["probabilities"]
        what = "The same recipe with the lungs blacked out"
        try:
            return baselines.beside(part.labels, probabilities, blind, part.patients, self.classes, what, rows)
        except TrialError as error:  # its probabilities are not finite
            return baselines.missing(f"Not computed: {error}")


def _session(trainable: Any, base: Any, dataset: Dataset, space: SearchSpace) -> Session:
    from lungtune.engine.session import Session

    return Session(trainable, base, dataset, space.fidelity, space.objective)


def _obstacle(dataset: Dataset) -> str:
    """Say why nothing can be trained with black lungs; empty when it can."""
    parts = (("training", dataset.train), ("validation", dataset.validation))
    if any(part.masks is None for _, part in parts):
        return NO_MASKS
    for name, part in parts:
        lacking = sorted(set(range(len(dataset.classes))) - set(part.labels[np.asarray(part.masked, bool)].tolist()))
        if lacking:
            return (
                f"Not computed: no {name} image of {', '.join(dataset.classes[k] for k in lacking)} has a lung mask, "
                "so black lungs alone would give the class away."
            )
    return ""
