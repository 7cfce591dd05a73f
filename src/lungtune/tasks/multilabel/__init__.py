"""Multi-label classification: any number of labels a case, by binary cross-entropy over those that are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.fields import LABELS, UNCERTAIN, Field
from lungtune.core.params import param
from lungtune.core.task import Metric, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lungtune.retraining.frame import Retraining
    from lungtune.tasks.multilabel.evaluator import MultiLabelEvaluator
    from lungtune.tasks.multilabel.predictions import LabelProbabilities

METRICS: Mapping[str, Metric] = {
    "macro_auroc": Metric("max", "mean over the counted labels of the area under the ROC curve"),
    "macro_ap": Metric("max", "mean over the counted labels of the average precision"),
    "nll": Metric("min", "mean over the labels of the binary negative log-likelihood, nats per case"),
    "brier": Metric("min", "mean over the labels of the squared distance of the probability from the truth"),
    "ece": Metric("min", "mean over the labels of the expected calibration error, 15 bins"),
}
"""A label is counted where a part has ``ENOUGH`` known positive and ``ENOUGH`` known negative cases. Reports also carry
``auroc_<label>``, and that of ``retrain`` more."""

ENOUGH = 5

UNCERTAIN_AS = {"ignore": float("nan"), "zeros": 0.0, "ones": 1.0, "smooth": 0.7}
"""Targets of an uncertain label in training: U-Ignore, U-Zeros and U-Ones of Irvin et al. 2019 (arXiv 1901.07031),
and the mean of U(0.55, 0.85), by which Pham et al. 2019 (arXiv 1911.06475) smooth U-Ones."""


@dataclass(frozen=True)
class MultiLabelParams:
    """Parameters that every family has where its cases have several labels."""

    uncertain: str = param(
        "ignore",
        choices=tuple(UNCERTAIN_AS),
        neutral="ignore",
        help="labels left open are trained as: nothing, absent, present, 0.7",
    )
    positive_weighting: str = param(
        "none", choices=("none", "sqrt", "balanced"), neutral="none", help="weight of a label's rare side in the loss"
    )


class MultiLabel(Task):
    """Any number of labels a case; each is present, absent, uncertain or unknown.

    The family's ``outputs`` must have ``logits`` ``(N, L)``, and as many under each name in ``heads``. Scores are over
    known labels only, so they do not depend on a trial's treatment of uncertain ones.

    Args:
        heads: further outputs whose probabilities are also reported.
    """

    name: ClassVar[str] = "multilabel"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    targets: ClassVar[tuple[Field, ...]] = (LABELS,)
    headline: ClassVar[tuple[str, ...]] = ("macro_ap", "nll", "ece")
    by_class: ClassVar[str] = "auroc"
    shown: ClassVar[tuple[str, ...]] = ("roc.png",)
    replaces: ClassVar[str] = "classification"
    Params: ClassVar[type | None] = MultiLabelParams

    def __init__(self, heads: Sequence[str] = ()) -> None:
        self.heads = tuple(heads)
        self.predicted = ("probabilities", *self.heads)

    @classmethod
    def replacing(cls, task: Task) -> MultiLabel:
        """See ``Task.replacing``: with the heads of ``task``."""
        return cls(getattr(task, "heads", ()))

    @classmethod
    def axes(cls, traits: Collection[str] | None = None) -> Mapping[str, Sequence[Any]]:
        """See ``Task.axes``: ``uncertain`` only where a label is uncertain."""
        weightings = {"positive_weighting": ("none", "sqrt", "balanced")}
        return (
            weightings
            if traits is not None and "uncertain" not in traits
            else {"uncertain": tuple(UNCERTAIN_AS), **weightings}
        )

    def constants(self, train: Any) -> Mapping[str, np.ndarray]:
        """See ``Task.constants``: ``label_counts`` ``(3, L)``: absent, uncertain and present cases of each label."""
        import numpy as np

        truth = np.asarray(train[LABELS.name])
        counts = [(truth == value).sum(axis=0) for value in (0.0, UNCERTAIN, 1.0)]
        return {"label_counts": np.array(counts, dtype=np.float32)}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Return the sum of the known labels' cross-entropies over L (see ``Task.loss``).

        So every known label counts the same. ``label_smoothing`` of a trial's ``Params``, where there is one, is
        applied.
        """
        from lungtune.tasks.multilabel.loss import cross_entropy

        counts = layout.constants["label_counts"]
        return cross_entropy(outputs["logits"], batch[LABELS.name], counts, layout.params, layout.counts)

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return ``probabilities`` ``(N, L)``, and those of each head under its name."""
        named = {"probabilities": outputs["logits"], **{name: outputs[name] for name in self.heads}}
        return {name: logits.float().sigmoid() for name, logits in named.items()}

    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> MultiLabelEvaluator:
        """See ``Task.evaluator``."""
        from lungtune.tasks.multilabel.evaluator import MultiLabelEvaluator

        return MultiLabelEvaluator(self, family, base, dataset, device)

    def predictions(self, tensors: Mapping[str, np.ndarray]) -> LabelProbabilities | None:
        """See ``Task.predictions``."""
        from lungtune.tasks.multilabel.predictions import LabelProbabilities

        held = {name: tensors[name] for name in ("truth", "probabilities") if name in tensors}
        return LabelProbabilities(**held) if len(held) == 2 else None

    def baselines(self, dataset: Any, part: Any = None) -> dict[str, dict[str, float]]:
        """See ``Task.baselines``: ``prevalence`` gives every case each label's share of the known training cases."""
        from lungtune.tasks.multilabel import baselines

        part = dataset.validation if part is None else part
        return {"prevalence": baselines.prevalence(dataset.train["labels"], part["labels"], dataset.classes)}

    def remarks(self, dataset: Any) -> Sequence[str]:
        """See ``Task.remarks``: the labels that are not counted."""
        from lungtune.tasks.multilabel.predictions import left_out

        sentence = left_out(dataset.validation["labels"], dataset.classes)
        return [sentence] if sentence else []

    def retraining(self) -> type[Retraining]:
        """See ``Task.retraining``: with thresholds and a calibration for each label."""
        from lungtune.tasks.multilabel.retraining import MultiLabelRetraining

        return MultiLabelRetraining
