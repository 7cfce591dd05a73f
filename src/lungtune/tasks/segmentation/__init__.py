"""Segmentation: one binary mask per case, 2D or 3D, by soft Dice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.fields import MASK, Field
from lungtune.core.task import Metric, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lungtune.stats.case_metrics import CaseMeasures
    from lungtune.tasks.case_evaluator import CaseEvaluator

METRICS: Mapping[str, Metric] = {
    "dice": Metric("max", "mean over the cases with a mask of the Dice coefficient at probability 0.5"),
    "iou": Metric("max", "mean over the cases with a mask of the intersection over union at probability 0.5"),
}


class Segmentation(Task):
    """One binary mask per case; cases without a mask count neither in the loss nor in the scores.

    The family's ``outputs`` must have ``mask``: logits ``(N, 1, H, W)`` or ``(N, 1, D, H, W)``; rows of a trial that
    segments nothing are NaN.
    """

    name: ClassVar[str] = "segmentation"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    targets: ClassVar[tuple[Field, ...]] = (MASK,)
    compared: ClassVar[tuple[str, ...]] = (MASK.name,)
    predicted = ("dice", "iou")
    headline: ClassVar[tuple[str, ...]] = ("iou",)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Return ``1 - soft Dice`` of rows with a mask; 0 elsewhere, and where the logits are NaN."""
        import torch

        from lungtune.layers.losses import overlap

        logits = outputs["mask"].float()
        counted = batch.has(MASK.name) & ~logits.flatten(1)[:, 0].isnan()
        # where() alone would pass NaN gradients of the rows that do not count
        safe = torch.where(counted.view(-1, *(1,) * (logits.ndim - 1)), logits, torch.zeros_like(logits))
        dice, _ = overlap(safe.sigmoid(), batch[MASK.name])
        return torch.where(counted, 1 - dice, torch.zeros_like(dice))

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return ``dice`` and ``iou`` ``(N,)`` at probability 0.5; NaN without a mask, or where the logits are NaN."""
        import torch

        from lungtune.layers.losses import overlap

        logits = outputs["mask"]
        counted = batch.has(MASK.name) & ~logits.flatten(1)[:, 0].isnan()
        measures = overlap((logits > 0).float(), batch[MASK.name])
        return {name: torch.where(counted, each, torch.nan) for name, each in zip(self.predicted, measures)}

    def for_objective(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See ``Task.for_objective``: 0 for a case with a mask of which the trial predicts none."""
        import numpy as np

        masked = part.has(MASK.name)
        return {name: np.where(masked & np.isnan(values), 0.0, values) for name, values in predicted.items()}

    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> CaseEvaluator:
        """See ``Task.evaluator``."""
        from lungtune.tasks.case_evaluator import CaseEvaluator

        return CaseEvaluator(self, family, base, dataset, device)

    def predictions(self, tensors: Mapping[str, np.ndarray]) -> CaseMeasures | None:
        """See ``Task.predictions``."""
        from lungtune.stats.case_metrics import CaseMeasures

        held = {name: tensors[name] for name in self.predicted if name in tensors}
        return CaseMeasures(held) if len(held) == len(self.predicted) else None

    def baselines(self, dataset: Any, part: Any = None) -> dict[str, dict[str, float]]:
        """See ``Task.baselines``: ``mean mask`` is the same for all cases, where most training masks are set."""
        from lungtune.tasks.segmentation import baselines

        scores = baselines.mean_mask_scores(dataset.train, dataset.validation if part is None else part)
        return {"mean mask": scores} if scores else {}
