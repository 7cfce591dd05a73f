"""Classifier head on a frozen vision transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lungtune.core.params import param
from lungtune.models.feature_head import ImageHead


@dataclass(frozen=True)
class VitHeadBase:
    """The frozen transformer; trials with equal ones may share a pack."""

    model: str = param("vit_base_patch16_224", help="timm's name of the architecture; not read for a folder of weights")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")
    views: int = param(
        4, low=0, high=64, help="augmented views of an image kept for each level; 0 runs the network in every step"
    )


class VitHead(ImageHead):
    """Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv 2010.11929); the head sees what their own would."""

    summary: ClassVar[str] = "frozen ViT-B/16 with a trained classifier head"
    Base = VitHeadBase
    small = (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
    )


FAMILY = VitHead()
