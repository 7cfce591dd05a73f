"""Near-copies of training images among a generator's samples.

The distance to the nearest training image alone is not informative: a blurred, typical image is near to all of them.
So it is divided by the mean distance to the 50 nearest (Carlini et al. 2023, "Extracting training data from
diffusion models", arXiv 2301.13188, section 5.1): a copy stands out among its neighbours. Validation images, which
cannot be copies, give the usual ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungtune.tasks.generation.sample_metrics import normalised

NEIGHBOURS = 50
SHARE = 0.01
"""Share of the validation images below each of the two thresholds."""
SIDE = 32
"""Pixels are compared at this size."""
_CHUNK = 4_000_000
"""At most this many distances are held at a time (32 MB)."""
_AT_ONCE = 256
"""Images downscaled per batch."""


@dataclass(frozen=True)
class Pictures:
    """Images in the form that is compared: embeddings ``(N, D)``, and pixels ``(N, K)`` of :func:`small`."""

    embeddings: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Copies:
    """Distance ratios of the samples.

    Attributes:
        distance: ``(M,)`` to the nearest training image, of normalised embeddings.
        relative: ``(M,)`` the same over the mean distance to the nearest 50; 0 is an exact copy.
        relative_pixels: ``(M,)`` the same of pixels.
        nearest: ``(M,)`` index of the training image with the nearest embedding.
        copied: bool ``(M,)``, True for near-copies.
    """

    distance: np.ndarray
    relative: np.ndarray
    relative_pixels: np.ndarray
    nearest: np.ndarray
    copied: np.ndarray

    @property
    def share(self) -> float:
        """The share of near-copies."""
        return float(self.copied.mean())


def small(images: np.ndarray) -> np.ndarray:
    """Return images ``(N, H, W)`` of any type as pixels ``(N, 32 * 32)``: means of cells, mean 0 and sd 1 per image.

    Sides that are not multiples of 32 have cells of unequal size; smaller ones stay as they are.
    """
    if len(images) > _AT_ONCE:  # a fold of large images need not be in memory as floats
        return np.concatenate([small(images[i : i + _AT_ONCE]) for i in range(0, len(images), _AT_ONCE)])
    pooled: np.ndarray = np.asarray(images, np.float32)
    for axis in (1, 2):
        side = pooled.shape[axis]
        edges = np.linspace(0, side, min(side, SIDE), endpoint=False).astype(np.int64)
        counts = np.diff(np.append(edges, side)).reshape([-1 if a == axis else 1 for a in range(3)])
        pooled = np.add.reduceat(pooled, edges, axis=axis) / counts
    flat = pooled.reshape(len(pooled), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    result: np.ndarray = flat / np.maximum(flat.std(axis=1, keepdims=True), 1e-9)
    return result


def copies(samples: Pictures, train: Pictures, validation: Pictures) -> Copies:
    """Detect near-copies: samples closer to one training image, relative to others, than 99 % of validation images.

    Both must hold, of embeddings and of pixels: the distance to the nearest training image over the mean one to the
    nearest 50 is less than the first percentile of the same over the validation images. So of an honest generator's
    samples, one in a hundred or fewer are called copies. Altered training images with another embedding are not
    detected.

    Args:
        samples: the M samples.
        train: what the generator was trained on, at least two images.
        validation: images of other patients.

    Raises:
        ValueError: there is no validation image, or fewer than two training images.
    """
    if len(train.embeddings) < 2 or not len(validation.embeddings):
        raise ValueError(
            "At least two training images and one validation image must be given, but got "
            f"{len(train.embeddings)} and {len(validation.embeddings)}."
        )
    known = normalised(train.embeddings)
    distance, relative, nearest = _nearest(normalised(samples.embeddings), known)
    usual = _nearest(normalised(validation.embeddings), known)[1]
    pixels, usual_pixels = (_nearest(each.pixels, train.pixels)[1] for each in (samples, validation))
    copied = (relative < _low(usual)) & (pixels < _low(usual_pixels))
    return Copies(distance, relative, pixels, nearest, copied)


def _low(values: np.ndarray) -> float:
    return float(np.quantile(values, SHARE, method="lower"))


def _nearest(rows: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return per row the distance to the nearest known one, its ratio to the mean of the nearest 50, and the index."""
    norms, count = (known**2).sum(axis=1), min(NEIGHBOURS, len(known))
    distance, relative, nearest = np.empty(len(rows)), np.empty(len(rows)), np.empty(len(rows), np.int64)
    step = max(1, _CHUNK // len(known))
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        squared = (rows[some] ** 2).sum(axis=1)[:, None] + norms - 2 * (rows[some] @ known.T)
        distances = np.sqrt(np.maximum(squared, 0))
        nearest[some] = distances.argmin(axis=1)
        distance[some] = distances.min(axis=1)
        usual = np.partition(distances, count - 1, axis=1)[:, :count].mean(axis=1)
        relative[some] = distance[some] / np.maximum(usual, 1e-12)
    return distance, relative, nearest
