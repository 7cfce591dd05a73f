"""Controls without lungs: a model of file properties, and the recipe trained on blackened lungs.

If a control scores as high as the model, the score is no evidence that the model uses the lungs. The outline of a
blackened lung stays visible, so the second control has shape and size of the lungs, and everything around them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core import synthetic
from lungtune.core.fields import IMAGE, LABELS, Field
from lungtune.core.io import log_stderr
from lungtune.core.space import SearchSpace
from lungtune.retraining import runs
from lungtune.stats.controls import learnable

if TYPE_CHECKING:
    from lungtune.core.family import Family
    from lungtune.data.dataset import Dataset, Inspection, Part
    from lungtune.engine.session import Session

METADATA, BLACKOUT = "metadata only", "lungs blacked out"
NO_MASKS = (
    "Not computed: it needs lung masks. Name their folder in the data source, masks=DIR, or in a table's column 'mask'."
)
LEFT_OUT = "Not computed: --no-blackout left it out."
_FACTS = ("width", "height", "mode", "type")


def outside(inspection: Inspection, part: str) -> dict[str, np.ndarray]:
    """Return the file properties of a part: a column ``(N,)`` per property, in the part's order."""
    facts = inspection.facts[~inspection.facts.index.duplicated()]
    rows = facts.loc[list(inspection.manifest.parts[part].path)]
    names = (*_FACTS, "depth") if "depth" in facts and facts["depth"].any() else _FACTS  # of volumes
    return {name: np.array(rows[name].tolist()) for name in names}


def masked(inspection: Inspection) -> bool:
    """True if any training case has a lung mask."""
    return inspection.manifest.has("mask", "train")


def darkened(part: Part, inputs: Sequence[Field] = (IMAGE,)) -> Part:
    """Return the cases of a part that have a mask, with black lungs in all images or volumes among ``inputs``."""
    kept = part.select(part.has("mask"))
    if not len(kept):
        return kept
    names = [field.name for field in inputs if field.pixels]
    dark = {name: np.where(kept["mask"] > 0, np.uint8(0), kept[name]) for name in names}
    return dataclasses.replace(kept, fields={**kept.fields, **dark})


class Blackout:
    """The same recipe, trained on images whose lungs are black. It stays in its session until it has been scored.

    Args:
        family: the model family.
        base: its ``Base``.
        dataset: opened with masks and labels.
        space: the recipe.
        fidelity: passes to train.
        folder: of its checkpoints, from which an interrupted training resumes.

    Attributes:
        problem: why it could not be trained, as a sentence; empty when it was.
        train: the cases it trained on; only without a problem.
    """

    def __init__(
        self, family: Family[Any, Any], base: Any, dataset: Dataset, space: SearchSpace, fidelity: float, folder: Path
    ) -> None:
        self.problem = obstacle(dataset)
        if self.problem:
            return
        log_stderr(
            "the recipe is trained once more, on images with black lungs: as long again (--no-blackout leaves it out)"
        )
        self._inputs = family.inputs
        self.train, validation = (darkened(part, self._inputs) for part in (dataset.train, dataset.validation))
        dark = dataclasses.replace(dataset, train=self.train, validation=validation, synthetic=None)
        assert space.seed is not None
        # synthetic images show lungs, and have no masks: as many real ones, blackened, take their place
        mixed = any(each.uses_bank for each in synthetic.settings(space))
        changed = {synthetic.IMAGES: synthetic.DUPLICATES} if mixed else {}
        self._run = runs.Run(space.seed, folder, changed=changed)
        self._session = _session(family, base, dark, space)
        runs.train(self._session, space, [self._run], fidelity, "training with black lungs")
        if self._run.failure is not None:
            self.problem = f"Not computed: the training with black lungs failed: {self._run.failure}."
            return
        runs.resume(self._session, space, self._run, fidelity)

    def predict(self, part: Part) -> dict[str, dict[str, np.ndarray]]:
        """Return the control's predictions of the cases of a part that have a mask, by task and name.

        Args:
            part: opened with masks; at least one case has one.
        """
        return self._session.predict(self._run.number, darkened(part, self._inputs))


def _session(family: Family[Any, Any], base: Any, dataset: Dataset, space: SearchSpace) -> Session:
    from lungtune.engine.session import Session

    return Session(family, base, dataset, space.fidelity, space.objective)


def obstacle(dataset: Dataset) -> str:
    """Return the reason why no training with black lungs is possible; empty if it is."""
    parts = (("training", dataset.train), ("validation", dataset.validation))
    if any("mask" not in part for _, part in parts):
        return NO_MASKS
    for name, part in parts:
        masked_rows = part.has("mask")
        if LABELS.name in part:
            if not learnable(part[LABELS.name][masked_rows]).any():
                return f"Not computed: no label is present in one and absent in another {name} image with a lung mask."
            continue
        lacking = sorted(set(range(len(dataset.classes))) - set(part["label"][masked_rows].tolist()))
        if lacking:
            return (
                f"Not computed: no {name} image of {', '.join(dataset.classes[k] for k in lacking)} has a lung mask, "
                "so black lungs alone would reveal the class."
            )
    return ""
