"""The contract between a model family and everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.objectives import CLASSIFICATION, GENERATION, directions

if TYPE_CHECKING:
    import torch

    from lungtune.layers.layout import BatchLayout
    from lungtune.layers.losses import Targets


@dataclass(frozen=True)
class LoraTarget:
    """Which Linears of the backbone one trial adapts, and how strongly.

    Attributes:
        pattern: regular expression that must match whole module names of the prepared backbone.
        rank: LoRA rank r of ``W + alpha / r * B @ A``.
        alpha: LoRA alpha.
        dropout: probability in [0, 1) with which an input feature of the adapter is dropped while training.
    """

    pattern: str
    rank: int
    alpha: float
    dropout: float


class Trainable(ABC):
    """One model family: a :class:`Classifier` or a :class:`Generator`.

    A module ``trainables/<name>.py`` holds one instance of it, named ``TRAINABLE``.

    The module imports light: no torch at its top. ``Base`` and ``Params`` are frozen dataclasses whose fields
    are made with ``lungtune.core.params.param``. Trials with equal ``Base`` may share a pack; everything in
    ``Params`` may differ from trial to trial inside one pack.

    Every family's ``Base`` has ``image_size`` (px) and ``Params`` has ``lr``, ``weight_decay``, ``batch_size``,
    ``warmup`` (share of the horizon), ``augmentation`` (level 0..3) and ``class_weighting`` (none, sqrt, balanced):
    the loop reads these. That of a family that classifies also has ``synthetic_ratio`` and what goes with it
    (``lungtune.core.synthetic``). A ``Base`` that has ``views`` lets the loop keep what ``features`` returns: 0 keeps
    nothing and augments afresh in every step; n >= 1 keeps n augmented views of an image for each level (one for
    level 0).

    A family trains adapters on a frozen backbone (``targets``), parameters of its own (``own``), or both; where all or
    part of the backbone itself trains, that is its own too, and ``nn.network`` runs it (``trainables/_network.py``).
    """

    summary: ClassVar[str]
    metrics: ClassVar[Mapping[str, str]]
    """Metric name -> direction: what a space's ``objective:`` may name, the default first."""
    packs: ClassVar[bool] = True
    """Whether trials that train together are quicker: where the whole backbone trains, there is nothing to share."""
    needs_masks: ClassVar[bool] = False
    """Whether images come with lung masks; a search on data without any is refused."""
    ablation: ClassVar[Mapping[str, Any]] = {}
    """Parameters, each with the value that switches off what it adds: ``{"lambda2": 0.0}``. Whether they help is asked
    by ``retrain --compare``."""
    Base: ClassVar[type]
    Params: ClassVar[type]

    @abstractmethod
    def check(self, base: Any) -> None:
        """Make sure that the pretrained weights are on this machine, without loading them; quick when they are not.

        Raises:
            WeightsError: they cannot be had; the message says how to get them.
        """

    @abstractmethod
    def miniature(self, folder: Path) -> Any:
        """Return the smallest ``Base`` there is, from random weights written to ``folder``, for tests."""

    @abstractmethod
    def backbone(self, base: Any, classes: Sequence[str]) -> torch.nn.Module:
        """Return the frozen backbone on the CPU, in eval mode, its attention split into plain Linears."""

    def targets(self, model: torch.nn.Module, params: Any) -> Sequence[LoraTarget]:
        """Return what this trial adapts. Every pattern must match at least one Linear of the backbone ``model``."""
        return ()

    def own(
        self, model: torch.nn.Module, params: Any, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """Return a trial's own parameters beside its adapters, such as a head, at their start values on the CPU.

        They reach ``logits`` stacked over the trials of a pack and padded with zeros to the largest trial's shape:
        padding must add nothing and get no gradient. Zeros into *and* out of a hidden unit do both.

        Args:
            model: the backbone.
            params: the trial's ``Params``.
            classes: class names.
            generator: everything random must be drawn from it.
        """
        return {}

    def statistics(self, model: torch.nn.Module, params: Any) -> Sequence[str]:
        """Return the names of the backbone's buffers of which this trial keeps its own: statistics training moves."""
        return ()

    def scales(self, model: torch.nn.Module, params: Any) -> Mapping[str, float]:
        """Return factors on the learning rate of the trial's own parameters, by name; those not named have 1."""
        return {}

    def features(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Return what no trial of this base changes: the part of the model below everything that trains.

        A function of each image by itself. It is run without adapters and without gradients, once for each image and
        view where ``Base.views`` says so.

        Args:
            model: the backbone.
            images: float ``(N, 1, H, W)`` in [0, 1].

        Returns:
            ``(N, ...)`` of any floating type; by default the images.
        """
        return images

    @abstractmethod
    def losses(
        self, model: torch.nn.Module, inputs: torch.Tensor, targets: Targets, slots: BatchLayout
    ) -> torch.Tensor:
        """Run a batch of training and return each row's loss ``(N,)``, float32.

        Args:
            model: the backbone with the adapters of all slots of the pack attached.
            inputs: ``(N, ...)``, what ``features`` returned; rows of one slot stand together.
            targets: labels, class weights and masks of the rows.
            slots: which rows belong to which trial, each trial's ``Params`` and its own parameters.
        """

    @abstractmethod
    def export(
        self, base: Any, params: Any, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """Write weights that load without lungtune into ``folder``, with a README that shows how.

        Args:
            base: the family's ``Base``.
            params: the trial's ``Params``.
            classes: class names.
            adapter: what ``Pack.adapter`` returned: own parameters and statistics by name, LoRA by PEFT's names.
            folder: where to.
        """


class Classifier(Trainable):
    """A family that tells which class an image shows."""

    metrics: ClassVar[Mapping[str, str]] = directions(CLASSIFICATION)

    def losses(
        self, model: torch.nn.Module, inputs: torch.Tensor, targets: Targets, slots: BatchLayout
    ) -> torch.Tensor:
        """See ``Trainable.losses``: ``loss`` of the ``outputs``."""
        return self.loss(self.outputs(model, inputs, slots), targets, slots)

    @abstractmethod
    def outputs(self, model: torch.nn.Module, inputs: torch.Tensor, slots: BatchLayout) -> Mapping[str, torch.Tensor]:
        """Run a batch; arguments as in ``losses``.

        Returns:
            ``logits`` ``(N, classes)``, and whatever else ``loss`` and ``judge`` want, N rows each.
        """

    def loss(self, outputs: Mapping[str, torch.Tensor], targets: Targets, slots: BatchLayout) -> torch.Tensor:
        """Return each row's loss ``(N,)``; by default the cross-entropy with the trial's class weights.

        Args:
            outputs: what ``outputs`` returned.
            targets: labels, class weights and masks of the rows.
            slots: as in ``outputs``.
        """
        return targets.cross_entropy(outputs["logits"])

    def judge(self, outputs: Mapping[str, torch.Tensor], targets: Targets) -> Mapping[str, torch.Tensor]:
        """Return what a report tells of each case beside the class probabilities; by default nothing.

        Returns:
            By name: measures ``(N,)``, NaN where a case has none, whose mean is reported; or probabilities
            ``(N, classes)`` of further heads, of which macro-F1 is reported.
        """
        return {}


class Generator(Trainable):
    """A family that draws images of a class.

    Its trials are judged by how far drawn images are from real ones, in what ``embedder`` makes of either. Its ``Base``
    has ``samples``: images of each class drawn for a report.
    """

    metrics: ClassVar[Mapping[str, str]] = directions(GENERATION)

    @abstractmethod
    def draw(
        self, model: torch.nn.Module, labels: Sequence[int], seeds: Sequence[int], slots: BatchLayout
    ) -> torch.Tensor:
        """Draw images of one trial with its weights as they are.

        Args:
            model: the backbone with the trial's adapters attached.
            labels: class of each image.
            seeds: of each image's noise: with the same weights, an image is a function of its class and seed.
            slots: a layout of one slot with a row for each image.

        Returns:
            float ``(N, 1, H, W)`` in [0, 1].
        """

    @abstractmethod
    def embedder(self, base: Any, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what images are compared by: a function from float ``(N, 1, H, W)`` in [0, 1] to ``(N, D)``.

        It depends on nothing that a trial chooses.

        Raises:
            WeightsError: its pretrained weights cannot be had.
        """

    @abstractmethod
    def content(self, base: Any) -> str:
        """Return a hash of the pretrained weights' files: the same settings may name others tomorrow.

        Raises:
            WeightsError: they cannot be had.
        """

    @abstractmethod
    def captions(self, params: Any, classes: Sequence[str]) -> list[str]:
        """Return what a trial calls each class when it draws."""
