"""Conversion of grey values of more than 8 bits to 8 bits, through a table with an entry per grey level.

Levels are scaled linearly from their 0.5th to their 99.5th percentile. Values far from all others are left out first:
burned-in markers, and a constant that fills what was not exposed. They are far if a gap without pixels lies between
them and the rest that is at least as wide as the rest itself; the gap would cost half of the contrast or more. Only a
constant, or at most `MARKER` of the pixels, is left out. Such levels become black or white; a constant that fills more
than `MARKER` is padding, and black.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lungtune.data.readers.base import between

MARKER = 0.05
"""Highest share of pixels that are taken for a marker."""

_BINS = 256
_EMPTY = 2e-4
"""Highest share of pixels in a bin of a gap."""
_CONSTANT = 0.9
"""Share of the most frequent level from which a group of levels counts as constant."""


class Scaling(NamedTuple):
    """Linear map from levels to 8 bits.

    Attributes:
        low: level that becomes 0.
        high: level that becomes 255; not above `low` where all counted pixels are equal.
        padding: bool per level, those that are black whatever the polarity.
        oddity: a phrase on levels that were left out; empty without any.
    """

    low: float
    high: float
    padding: np.ndarray
    oddity: str


def histogram(wide: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the levels of an array, the pixels of each, and every pixel's position in both.

    Args:
        wide: real numbers of any shape, finite.

    Returns:
        Levels `(V,)`, counts int64 `(V,)`, and unsigned integers of the array's shape.
    """
    if wide.dtype.itemsize <= 2 and wide.dtype.kind in "iu":
        native = np.ascontiguousarray(wide, wide.dtype.newbyteorder("="))
        index = native.view(f"u{wide.dtype.itemsize}")
        every = np.arange(1 << 8 * wide.dtype.itemsize, dtype=index.dtype)
        return every.view(native.dtype), count(index), index
    levels, index, counts = np.unique(wide, return_inverse=True, return_counts=True)
    return levels, counts, index.reshape(wide.shape)


def count(index: np.ndarray) -> np.ndarray:
    """Return how often each value of a uint8 or uint16 array occurs, int64 `(256,)` or `(65536,)`."""
    return np.bincount(index.ravel(), minlength=1 << 8 * index.dtype.itemsize)


def apply(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return `table[index]`, a third faster than by indexing."""
    return table.take(index, mode="clip")


def to_8_bit(wide: np.ndarray, hidden: np.ndarray | None = None) -> tuple[np.ndarray, Scaling]:
    """Convert wide grey values to uint8 of the same shape; a constant becomes 0.

    Args:
        wide: real numbers of any shape, finite.
        hidden: bool of the same shape, pixels that do not count and become 0; none by default.

    Returns:
        The converted values and how they were scaled.
    """
    levels, counts, index = histogram(wide)
    if hidden is not None and not hidden.all():
        counts = counts - np.bincount(index[hidden].ravel(), minlength=len(levels))
    scale = scaling(levels, counts)
    gray = apply(table(levels, scale), index)
    if hidden is not None:
        gray[hidden] = 0
    return gray, scale


def table(levels: np.ndarray, scale: Scaling) -> np.ndarray:
    """Return the 8-bit value of each level, padding not yet black."""
    if not scale.high > scale.low:
        return np.zeros(len(levels), np.uint8)
    return between(levels, scale.low, scale.high)


def scaling(levels: np.ndarray, counts: np.ndarray) -> Scaling:
    """Determine the range of levels to keep, see the module.

    Args:
        levels: real numbers `(V,)`, in any order.
        counts: pixels of each, `(V,)`; levels without pixels do not count.
    """
    held = np.flatnonzero(counts)
    held = held[np.argsort(levels[held], kind="stable")]
    values, pixels = levels[held], counts[held]
    total, oddities = int(pixels.sum()), []
    padding = np.zeros(len(levels), bool)
    start, stop = 0, len(values)  # of the levels that are kept
    while stop - start > 2:
        gap = _gap(values[start:stop], pixels[start:stop])
        if gap is None:
            break
        cut, low_side = start + gap[0], gap[1]
        out = slice(start, cut) if low_side else slice(cut, stop)
        share = pixels[out].sum() / total
        if share > MARKER:
            padding[held[out]] = True
        start, stop = (cut, stop) if low_side else (start, cut)
        peak = values[out][np.argmax(pixels[out])]
        kind = "padding" if share > MARKER else "a marker"
        oddities.append(f"{share:.1%} of the pixels are near {peak:.6g}, far from all others: taken as {kind}")
    low, high = percentiles(values[start:stop], pixels[start:stop])
    return Scaling(low, high, padding, "; ".join(oddities))


def percentiles(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentile as `numpy.percentile` does; minimum and maximum where these are equal.

    Args:
        values: distinct and ascending.
        counts: pixels of each, above 0.
    """
    ends = np.cumsum(counts)
    low, high = (_quantile(values, ends, share / 100) for share in (0.5, 99.5))
    return (low, high) if high > low else (float(values[0]), float(values[-1]))


def _quantile(values: np.ndarray, ends: np.ndarray, share: float) -> float:
    position = (int(ends[-1]) - 1) * share
    below = int(position)
    one, other = (float(values[np.searchsorted(ends, min(k, ends[-1] - 1), "right")]) for k in (below, below + 1))
    part = position - below
    return one + (other - one) * part if part < 0.5 else other - (other - one) * (1 - part)


def _gap(values: np.ndarray, counts: np.ndarray) -> tuple[int, bool] | None:
    """Find levels to leave out.

    Returns:
        The number of levels below the gap, and True if these are to be left out, False if those above it are; None
        without such levels.
    """
    low, high = percentiles(values, counts)
    if not high > low:
        return None
    bins = np.clip((values.astype(np.float64) - low) * (_BINS / (high - low)), 0, _BINS - 1).astype(np.int64)
    total = counts.sum()
    full = np.flatnonzero(np.bincount(bins, counts, _BINS) > _EMPTY * total)
    widths = np.diff(full)
    widest = int(np.argmax(widths)) if len(widths) else 0
    if not len(widths) or widths[widest] - 1 < _BINS // 2:
        return None
    cut = int(np.searchsorted(bins, full[widest] + 1))
    sides = counts[:cut], counts[cut:]
    shares = [side.sum() / total for side in sides]
    constant = [side.max() > _CONSTANT * side.sum() for side in sides]
    odd = [constant[k] or shares[k] <= MARKER for k in range(2)]
    if odd == [True, True]:
        if constant == [True, True]:
            return None  # two levels, such as a mask
        odd = constant if constant[0] != constant[1] else [shares[0] < shares[1], shares[1] <= shares[0]]
    return None if odd == [False, False] else (cut, odd[0])
