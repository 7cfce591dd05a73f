"""The contract between a model family and everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from lungtune.nn.slots import Slots


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
    """One model family. A module ``trainables/<name>.py`` holds one instance of it named ``TRAINABLE``.

    The module imports light: no torch at its top. ``Base`` and ``Params`` are frozen dataclasses whose fields
    are made with ``lungtune.core.params.param``. Trials with equal ``Base`` may share a pack; everything in
    ``Params`` may differ from trial to trial inside one pack.

    Every family's ``Base`` has ``image_size`` (px) and ``Params`` has ``lr``, ``weight_decay``, ``batch_size``,
    ``warmup`` (share of the horizon), ``augmentation`` (level 0..3) and ``class_weighting`` (none, sqrt, balanced):
    the loop reads these.
    """

    summary: ClassVar[str]
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

    @abstractmethod
    def targets(self, model: torch.nn.Module, params: Any) -> Sequence[LoraTarget]:
        """Return what this trial adapts. Every pattern must match at least one Linear of the backbone ``model``."""

    @abstractmethod
    def logits(self, model: torch.nn.Module, images: torch.Tensor, slots: Slots) -> torch.Tensor:
        """Score a batch.

        Args:
            model: the backbone with the adapters of all slots of the pack attached.
            images: float ``(N, 1, H, W)`` in [0, 1]; rows of one slot stand together.
            slots: which rows belong to which trial, and each trial's ``Params``.

        Returns:
            ``(N, classes)`` logits.
        """

    @abstractmethod
    def export(
        self, base: Any, params: Any, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """Write weights that load without lungtune into ``folder``, with a README that shows how."""
