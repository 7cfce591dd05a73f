"""Fingerprints of images for the detection of near-copies: small pictures without borders, stored by the scan."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from PIL import Image

SIDE = 48
"""Side in pixels of a fingerprint, which has `SIDE * SIDE` bytes."""

_TOLERANCE = 6  # gray levels a border may vary by: JPEG noise
_BORDER = 0.97  # least share of a line's pixels of the border's level; the rest may be a marker
_EDGE = 2  # lines at the end of a border that its edge blurs
_MOST = 0.4  # greatest share of a side that one border has
_ROUNDS = 3  # a white border may be inside a black one


def fingerprint(gray: Image.Image, pixels: np.ndarray | None = None) -> bytes:
    """Return an image without its uniform borders, squashed to `SIDE` x `SIDE` pixels, row by row.

    Args:
        gray: of mode L.
        pixels: its pixels, uint8 `(H, W)`, if they have been copied already.
    """
    top, bottom, left, right = _inside(np.asarray(gray) if pixels is None else pixels)
    box = (left, top, right, bottom)
    inner = gray if box == (0, 0, *gray.size) else gray.crop(box)
    method = Image.Resampling.BOX if min(inner.size) >= SIDE else Image.Resampling.BILINEAR
    return inner.resize((SIDE, SIDE), method).tobytes()


def pictures(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Return fingerprints as uint8 `(N, SIDE, SIDE)`."""
    return np.frombuffer(b"".join(fingerprints), np.uint8).reshape(-1, SIDE, SIDE)


def equalised(images: np.ndarray) -> np.ndarray:
    """Return each pixel's rank in its picture, -1..1, mean 0: the same for any gamma, the negative for an inversion.

    Args:
        images: uint8 `(N, S, S)`.
    """
    count = len(images)
    flat = images.reshape(count, -1)
    keys = flat + np.arange(0, 256 * count, 256, dtype=np.int32)[:, None]
    histogram = np.bincount(keys.ravel(), minlength=256 * count).reshape(count, 256)
    ranks = (2 * np.cumsum(histogram, axis=1) - histogram) / np.float32(flat.shape[1]) - 1
    return ranks.astype(np.float32).ravel()[keys].reshape(images.shape)


def contrast_normalised(images: np.ndarray, scale: float, floor: float) -> np.ndarray:
    """Return pictures less their local mean over their local standard deviation.

    Args:
        images: float32 `(N, S, S)`.
        scale: standard deviation in pixels of the Gaussian window.
        floor: added in squares to the standard deviation.
    """
    window = _gaussian(images.shape[-1], scale)
    high = images - window @ images @ window.T
    return high / np.sqrt(window @ (high * high) @ window.T + np.float32(floor**2))


def reduced(images: np.ndarray, side: int) -> np.ndarray:
    """Return pictures `(N, S, S)` averaged down to `(N, side, side)`."""
    old = images.shape[-1]
    edges, starts = np.arange(side + 1) * old / side, np.arange(old)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    matrix = (np.clip(overlap, 0, None) * side / old).astype(np.float32)
    return matrix @ images @ matrix.T


def _gaussian(side: int, scale: float) -> np.ndarray:
    """Return the `(side, side)` matrix of a Gaussian blur; at the edges the weights are normalised."""
    offsets = np.arange(side)[:, None] - np.arange(side)
    weights = np.exp(-0.5 * (offsets / scale) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _inside(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a picture without its uniform borders."""
    height, width = pixels.shape
    top, bottom, left, right = 0, height, 0, width
    for _ in range(_ROUNDS):
        inner = pixels[top:bottom, left:right]
        above, below, before, after = map(_border, (inner, inner[::-1], inner.T, inner.T[::-1]))
        if not (above or below or before or after):
            break
        if bottom - top - above - below < 0.3 * height or right - left - before - after < 0.3 * width:
            break
        top, bottom, left, right = top + above, bottom - below, left + before, right - after
    return top, bottom, left, right


def _border(lines: np.ndarray) -> int:
    """Return how many lines from the first on have the level of the first, at most `_MOST` of them."""
    ordered = np.sort(lines[0], kind="stable").tobytes()  # by radix; of most pictures this line alone is looked at
    width = len(ordered)
    level = (ordered[(width - 1) // 2] + ordered[width // 2]) // 2  # the median
    low, high = max(0, level - _TOLERANCE), min(255, level + _TOLERANCE)
    if (bisect_right(ordered, high) - bisect_left(ordered, low)) / width < _BORDER:
        return 0
    some = lines[: max(1, int(_MOST * len(lines)))]
    same = ((some >= low) & (some <= high)).mean(axis=1) >= _BORDER
    return len(same) if same.all() else int(np.argmin(same)) + _EDGE
