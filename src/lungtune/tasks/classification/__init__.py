"""Classification: one class per case, by cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.fields import LABEL, Field
from lungtune.core.task import Metric, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lungtune.retraining.frame import Retraining
    from lungtune.tasks.classification.evaluator import ClassificationEvaluator
    from lungtune.tasks.classification.predictions import Probabilities

METRICS: Mapping[str, Metric] = {
    "macro_f1": Metric("max", "mean over the classes of F1; every class counts the same"),
    "balanced_accuracy": Metric("max", "mean over the classes of recall"),
    "accuracy": Metric("max", "share of cases classified right; read it beside the constant-class baseline"),
    "macro_auroc": Metric("max", "mean over the classes of the one-vs-rest area under the ROC curve"),
    "macro_ap": Metric("max", "mean over the classes of the one-vs-rest average precision"),
    "mcc": Metric("max", "Matthews correlation of labels and predictions, 0 for a constant class"),
    "nll": Metric("min", "negative log-likelihood of the right class, nats per case"),
    "brier": Metric("min", "squared distance of the probabilities from the truth, summed over the classes"),
    "ece": Metric("min", "expected calibration error of the predicted class, 15 bins"),
}
"""Reports also carry ``recall_<class>`` per class, and ``macro_f1_<head>`` per further head."""


class Classification(Task):
    """One class per case.

    The family's ``outputs`` must have ``logits`` ``(N, C)``, and as many under each name in ``heads``.

    Args:
        heads: further outputs whose probabilities are also reported, such as a Conformer's branches.
    """

    name: ClassVar[str] = "classification"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    targets: ClassVar[tuple[Field, ...]] = (LABEL,)
    headline: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "accuracy", "macro_auroc", "nll", "ece")
    by_class: ClassVar[str] = "recall"
    shown: ClassVar[tuple[str, ...]] = ("confusion_matrix.png", "roc.png")

    def __init__(self, heads: Sequence[str] = ()) -> None:
        self.heads = tuple(heads)
        self.predicted = ("probabilities", *self.heads)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Return the cross-entropy or focal loss of ``logits`` times the trial's class weights (see ``Task.loss``).

        ``label_smoothing``, ``loss`` and ``focal_gamma`` of a trial's ``Params``, where there are such, are applied.
        """
        from lungtune.layers.losses import cross_entropy

        smoothing = [getattr(params, "label_smoothing", 0.0) for params in layout.params]
        gammas = [
            getattr(params, "focal_gamma", 0.0) * (getattr(params, "loss", "cross_entropy") == "focal")
            for params in layout.params
        ]
        return cross_entropy(outputs["logits"], batch["label"], batch.weights, smoothing, layout.counts, gammas)

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return ``probabilities`` ``(N, C)``, and those of each head under its name."""
        named = {"probabilities": outputs["logits"], **{name: outputs[name] for name in self.heads}}
        return {name: logits.float().softmax(1) for name, logits in named.items()}

    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> ClassificationEvaluator:
        """See ``Task.evaluator``."""
        from lungtune.tasks.classification.evaluator import ClassificationEvaluator

        return ClassificationEvaluator(self, family, base, dataset, device)

    def predictions(self, tensors: Mapping[str, np.ndarray]) -> Probabilities | None:
        """See ``Task.predictions``."""
        from lungtune.tasks.classification.predictions import Probabilities

        held = {name: tensors[name] for name in ("labels", "probabilities") if name in tensors}
        return Probabilities(**held) if len(held) == 2 else None

    def baselines(self, dataset: Any, part: Any = None) -> dict[str, dict[str, float]]:
        """See ``Task.baselines``: ``constant`` predicts the most frequent class of the training fold."""
        from lungtune.tasks.classification import baselines

        part = dataset.validation if part is None else part
        return {"constant": baselines.constant_class(dataset.train["label"], part["label"], dataset.classes)}

    def retraining(self) -> type[Retraining]:
        """See ``Task.retraining``: with thresholds, a temperature, and controls without lungs."""
        from lungtune.tasks.classification.retraining import ClassificationRetraining

        return ClassificationRetraining
