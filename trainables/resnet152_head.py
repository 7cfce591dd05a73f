"""Classifier head on a frozen ResNet-152."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lungtune.core.params import param
from lungtune.models.feature_head import ImageHead


@dataclass(frozen=True)
class ResNetHeadBase:
    """The frozen ResNet; trials with equal ones may share a pack."""

    model: str = param("resnet152", help="timm's name of the architecture; not read when weights is a folder")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")
    views: int = param(
        4, low=0, high=64, help="augmented views of an image kept for each level; 0 runs the network in every step"
    )


class ResNetHead(ImageHead):
    """He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385); the head sees the pooled map."""

    summary: ClassVar[str] = "frozen ResNet-152 with a trained classifier head"
    Base = ResNetHeadBase
    small = ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})


FAMILY = ResNetHead()
