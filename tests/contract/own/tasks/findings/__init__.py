"""Multi-label task: sigmoid and binary cross-entropy per label; unknown labels are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.fields import LABELS
from lungtune.core.task import Metric, Task

if TYPE_CHECKING:
    import numpy as np
    import torch


class MultiLabel(Task):
    """The family's ``outputs`` must have ``findings``, logits ``(N, L)``."""

    name = "findings"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "macro_auroc": Metric("max", "mean over the labels of the area under the ROC curve, 0.5 if undefined"),
        "bce": Metric("min", "binary cross-entropy, mean over known labels, nats"),
    }
    targets = (LABELS,)
    predicted = ("findings",)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """See ``Task.loss``: the mean over the known labels of a case."""
        import torch

        truth = batch["labels"]
        known = ~truth.isnan()
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs["findings"].float(), truth.nan_to_num(0.0), reduction="none"
        )
        return torch.where(known, each, 0.0).sum(1) / known.sum(1).clamp(min=1)

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """See ``Task.predict``: probabilities ``(N, L)``."""
        return {"findings": outputs["findings"].float().sigmoid()}

    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> Any:
        """See ``Task.evaluator``."""
        from lungtune.tasks.case_evaluator import CaseEvaluator

        class Evaluator(CaseEvaluator):
            def kept(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Findings:
                return Findings(part["labels"], predicted["findings"])

        return Evaluator(self, family, base, dataset, device)

    def predictions(self, tensors: Mapping[str, np.ndarray]) -> Findings | None:
        """See ``Task.predictions``."""
        held = {name: tensors[name] for name in ("truth", "findings") if name in tensors}
        return Findings(**held) if len(held) == 2 else None


@dataclass(frozen=True)
class Findings:
    """Truth ``(N, L)``, NaN where unknown, and probabilities ``(N, L)``."""

    truth: np.ndarray
    findings: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def scorer(self, groups: np.ndarray) -> Scorer:
        """Return a scorer over patients."""
        return Scorer(self, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds."""
        return {"truth": self.truth, "findings": self.findings}

    def table(self) -> np.ndarray:
        """Return the probabilities."""
        return self.findings

    def with_table(self, table: np.ndarray) -> Findings:
        """Return other predictions on the same cases."""
        return replace(self, findings=table)

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return an empty string."""
        return ""

    def figures(self, title: str, classes: Sequence[str]) -> Any:
        """Yield nothing."""
        return iter(())


class Scorer:
    """Scores findings under all weightings of the patients at once."""

    def __init__(self, found: Findings, groups: np.ndarray) -> None:
        self.found, self.groups = found, groups
        self.patients = int(groups.max()) + 1

    def score(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)``."""
        import numpy as np

        times = np.asarray(weights, float)[:, self.groups]
        return self._area(times) if metric == "macro_auroc" else self._entropy(times)

    def outside(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric on the patients left out."""
        return self.score(metric, weights == 0)

    def cases(self, metric: Any) -> np.ndarray:
        """Return how many cases of each patient have a known label."""
        import numpy as np

        known = (~np.isnan(self.found.truth)).any(axis=1)
        return np.bincount(self.groups[known], minlength=self.patients)

    def _area(self, times: np.ndarray) -> np.ndarray:
        """Return the mean area: the share of pairs with and without a label that are in order, a tie half."""
        import numpy as np

        areas = []
        for truth, output in zip(self.found.truth.T, self.found.findings.T, strict=True):
            positive, negative = truth == 1, truth == 0
            over = output[positive][:, None] - output[negative]
            ordered = ((times[:, positive] @ (0.5 + 0.5 * np.sign(over))) * times[:, negative]).sum(axis=1)
            pairs = times[:, positive].sum(axis=1) * times[:, negative].sum(axis=1)
            areas.append(np.where(pairs > 0, ordered / np.maximum(pairs, 1), 0.5))
        return np.mean(areas, axis=0)

    def _entropy(self, times: np.ndarray) -> np.ndarray:
        import numpy as np

        known, output = ~np.isnan(self.found.truth), np.clip(self.found.findings.astype(float), 1e-7, 1 - 1e-7)
        losses = np.where(known, -np.log(np.where(self.found.truth == 1, output, 1 - output)), 0.0).sum(axis=1)
        count = times @ known.sum(axis=1)
        return np.where(count > 0, times @ losses / np.maximum(count, 1), np.nan)
