"""What every decoder shares: the error it raises, the largest picture it takes and how wide pixels become 8-bit."""

from __future__ import annotations

import numpy as np

MAX_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb (a quarter GiB of RGB); X-ray detectors have at most 20 million."""


class UnreadableImageError(Exception):
    """An image cannot be decoded. The text says why in a few words; it becomes part of a `DataError`."""


def to_8_bit(wide: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Scale linearly from the 0.5th..99.5th percentile to 0..255; constant becomes 0.

    Args:
        wide: `(H, W)` of any real type.
        counted: bool `(H, W)`, the pixels the percentiles are taken from; all by default.
    """
    basis = wide if counted is None or not counted.any() else wide[counted]
    low, high = np.percentile(basis, (0.5, 99.5))
    if not high > low:
        low, high = float(basis.min()), float(basis.max())
    if not high > low:
        return np.zeros(wide.shape, np.uint8)
    return between(wide, float(low), float(high))


def between(wide: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale linearly from `low < high` to 0..255, uint8, what lies outside clipped."""
    return np.clip((wide.astype(np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)


def short(error: Exception) -> str:
    """Return the first 120 characters of what an exception says."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]
