"""Generation: images drawn for a class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import B, Family, P
from lungtune.core.fields import LABEL, Field
from lungtune.core.task import Metric, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lungtune.layers.layout import BatchLayout
    from lungtune.retraining.frame import Retraining
    from lungtune.tasks.generation.evaluator import GenerationEvaluator
    from lungtune.tasks.generation.sample_metrics import Samples

METRICS: Mapping[str, Metric] = {
    "cmmd": Metric("min", "mean over the classes of the unbiased squared MMD of samples and real images, x 1000"),
    "coverage": Metric("max", "mean over the classes of the share of real images that have a sample near them"),
}
"""Reports also carry ``cmmd_<class>`` per class, ``copies``, ``recognised`` and ``recognised_<class>``."""

RECOGNISED = "recognised"


class Generation(Task):
    """Images drawn for a class, compared with real ones in an embedding. Its families are :class:`GenerativeFamily`."""

    name: ClassVar[str] = "generation"
    metrics: ClassVar[Mapping[str, Metric]] = METRICS
    targets: ClassVar[tuple[Field, ...]] = (LABEL,)
    headline: ClassVar[tuple[str, ...]] = ("cmmd", "coverage", RECOGNISED, "copies")
    by_class: ClassVar[str] = "cmmd"
    by_class_mode: ClassVar[str] = "min"
    picture: ClassVar[str] = "samples.png"
    shown: ClassVar[tuple[str, ...]] = (picture,)

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Raise: a generator's loss is its family's own (``Family.losses``)."""
        raise NotImplementedError("a family that draws images must have a method losses of its own")

    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return nothing: samples are drawn, not predicted from cases."""
        return {}

    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> GenerationEvaluator:
        """See ``Task.evaluator``."""
        from lungtune.tasks.generation.evaluator import GenerationEvaluator

        return GenerationEvaluator(self, family, base, dataset, device)

    def predictions(self, tensors: Mapping[str, np.ndarray]) -> Samples | None:
        """See ``Task.predictions``."""
        from lungtune.tasks.generation.sample_metrics import Samples

        names = ("real", "labels", "samples", "drawn", "sigma")
        if not all(name in tensors for name in names):
            return None
        real, labels, samples, drawn, sigma = (tensors[name] for name in names)
        return Samples(real, labels, samples, drawn, float(sigma.reshape(-1)[0]))

    def retraining(self) -> type[Retraining]:
        """See ``Task.retraining``: with the untrained base and real images as references."""
        from lungtune.tasks.generation.retraining import GenerationRetraining

        return GenerationRetraining

    def tolerance(self, score: float, cases: int) -> float:
        """See ``Task.tolerance``.

        Rounding grows over the steps of training and sampling: the same trial in four packs differed by 2.5 % from end
        to end, a 27th of its interval.
        """
        return max(0.02, 0.05 * abs(score))

    def next_commands(self, recipe: str) -> list[tuple[str, str]]:
        """See ``Task.next_commands``."""
        return [(f"lungtune synthesize {recipe} --per-class 200", "a bank of images for classifiers to train on")]

    def summary_lines(self, best: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """See ``Task.summary_lines``: the recognised shares of samples and references."""
        scores_of = {"its samples": best, "untrained base": baselines.get("untrained", {})}
        scores_of["real images"] = baselines.get("real", {})
        if not all(RECOGNISED in scores for scores in scores_of.values()):
            return []  # a share alone is hard to interpret
        shares = "; ".join(f"{name} {100 * scores[RECOGNISED]:.0f} %" for name, scores in scores_of.items())
        return [f"taken for their class by a classifier of real images, mean over the classes: {shares}"]


class GenerativeFamily(Family[B, P]):
    """A family that draws images of a class, and has a method ``losses`` of its own.

    Its trials are scored by how far drawn images are from real ones, in the embedding of ``embedder``. Its ``Base`` has
    ``samples``: images of each class drawn for a report.
    """

    tasks: ClassVar[tuple[Task, ...]] = (Generation(),)

    @abstractmethod
    def draw(self, model: Any, labels: Sequence[int], seeds: Sequence[int], layout: BatchLayout) -> torch.Tensor:
        """Draw images of one trial with its current weights.

        Args:
            model: the backbone with the trial's adapters attached.
            labels: class of each image.
            seeds: of each image's noise: with the same weights, an image is a function of its class and seed.
            layout: a layout of one slot with a row for each image.

        Returns:
            float ``(N, 1, H, W)`` in [0, 1].
        """

    @abstractmethod
    def embedder(self, base: Any, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the embedding images are compared in: from float ``(N, 1, H, W)`` in [0, 1] to ``(N, D)``.

        It must not depend on a trial's ``Params``.

        Raises:
            WeightsError: its pretrained weights are not available.
        """

    @abstractmethod
    def content(self, base: Any) -> str:
        """Return a hash of the pretrained weights' files: equal settings may name other files later.

        Raises:
            WeightsError: they are not available.
        """

    @abstractmethod
    def captions(self, params: Any, classes: Sequence[str]) -> list[str]:
        """Return a trial's caption of each class, for drawing."""
