"""Parity of a rebuilt model with the original it was loaded as."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest difference in float32, relative to the largest absolute value of the original's output."""


def batch(channels: int, size: int) -> Tensor:
    """Return one image of standard normal pixels, ``(1, channels, size, size)``; the same at every call."""
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def difference(wanted: Tensor, got: Tensor) -> float:
    """Return the largest absolute difference of two outputs, relative to the largest absolute value of ``wanted``."""
    return float((wanted - got).abs().max() / wanted.abs().max())


def sentence(wanted: Tensor, got: Tensor) -> str:
    """Return how far ``got`` is from ``wanted`` if that is more than :data:`TOLERANCE`, else an empty string."""
    off = difference(wanted, got)
    return "" if off <= TOLERANCE else f"differs from the original's by {off:.1e} of its size (at most {TOLERANCE:g})"
