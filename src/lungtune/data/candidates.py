"""Candidate pairs of near-copies: nearest neighbours of descriptors that the changes of copies affect little.

A descriptor is a linear discriminant (Fisher) of the low cosine coefficients of a fingerprint, equalised and contrast
normalised. It is fitted to the data: the variance between pictures is that of the coefficients, the variance within a
picture that of a sample under small random rotations, crops, markers and contrast changes. Nearest neighbours are
searched exactly in small data and by an inverted file (Faiss) in large ones, so the time grows nearly linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lungtune.core import environment
from lungtune.data.fingerprint import SIDE, contrast_normalised, equalised, pictures
from lungtune.data.registration import IDENTITY, warp

BLOCK = 512
"""Pictures or pairs processed at a time."""

_COEFFICIENTS = 12  # a side; the first one of all, the mean, is left out
_DIMENSIONS = 96
_SAMPLE = 512  # pictures that are changed, each _CHANGES times
_CHANGES = 4
_RIDGE = 1e-3
_SIGNED = 0.25  # above this projection on the mean direction a descriptor's sign is sure
_SEARCHED = 12  # neighbours of a picture and of its mirror image that are looked up
_NEIGHBOURS = 2  # of both together that become pairs
_NEAR = 0.96  # cosine from which further ones do too, so that all pairs of many copies are included
_EXACT = 10_000  # rows up to which all are compared
_PROBED = 8  # cells of the inverted file that are searched
_TRAINED = 20  # rows a cell that the cells are fitted to


def coarse(images: np.ndarray) -> np.ndarray:
    """Return pictures as they are compared by descriptors and aligned, float32 `(N, S, S)`.

    Args:
        images: uint8 `(N, S, S)`.
    """
    return contrast_normalised(equalised(images), SIDE * 3 / 32, 0.15)


def candidates(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Return pairs of rows that may be near-copies, int64 `(P, 3)`: first < second, and 1 if one is mirrored.

    Args:
        fingerprints: N of them.
    """
    if len(fingerprints) < 2:
        return np.zeros((0, 3), np.int64)
    blocks = range(0, len(fingerprints), BLOCK)
    coefficients = np.concatenate([_coefficients(pictures(fingerprints[k : k + BLOCK])) for k in blocks])
    projection = _discriminant(fingerprints, coefficients)
    mirror = np.tile((-1.0) ** np.arange(_COEFFICIENTS), _COEFFICIENTS)[1:, None].astype(np.float32)
    plain, mirrored = _unit(coefficients @ projection), _unit(coefficients @ (mirror * projection))
    axis = np.linalg.svd(plain[:: max(1, len(plain) // 4096)], full_matrices=False)[2][0]
    index = _index(_signed(plain, axis)[0])
    neighbours = []
    for flipped, queries in enumerate((plain, mirrored)):
        signed, unsure = _signed(queries, axis)
        for rows, vectors in ((np.arange(len(signed)), signed), (np.flatnonzero(unsure), -signed[unsure])):
            if len(rows):
                near, other = index.search(vectors, min(_SEARCHED, len(signed)))
                kept = (other >= 0) & (other != rows[:, None])
                row = np.broadcast_to(rows[:, None], other.shape)
                neighbours.append((row[kept], other[kept].astype(np.int64), near[kept], np.full(kept.sum(), flipped)))
    row, other, near, flip = (np.concatenate(columns) for columns in zip(*neighbours, strict=True))
    order = np.lexsort((-near, row))
    row, other, near, flip = row[order], other[order], near[order], flip[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = (rank < _NEIGHBOURS) | (near >= _NEAR)
    pairs = np.stack([np.minimum(row, other), np.maximum(row, other), flip], axis=1)
    return np.unique(pairs[kept], axis=0)


def _coefficients(images: np.ndarray) -> np.ndarray:
    """Return the low cosine coefficients of uint8 `(N, S, S)`, float32 `(N, D)`."""
    angles = np.pi / SIDE * np.outer(np.arange(_COEFFICIENTS), np.arange(SIDE) + 0.5)
    basis = np.cos(angles).astype(np.float32)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    return (basis @ coarse(images) @ basis.T).reshape(len(images), -1)[:, 1:]


def _discriminant(fingerprints: Sequence[bytes], coefficients: np.ndarray) -> np.ndarray:
    """Return the projection, float32 `(D, dimensions)`, in which the variance within changed pictures is 1."""
    from scipy.linalg import eigh

    generator = np.random.default_rng(0)
    rows = generator.permutation(len(fingerprints))[:_SAMPLE]
    images = pictures([fingerprints[row] for row in rows])
    changes = [_coefficients(_changed(images, generator)) - coefficients[rows] for _ in range(_CHANGES)]
    within = np.stack([change.T @ change / len(rows) for change in changes]).mean(axis=0, dtype=np.float64)
    within += (_RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within))
    vectors = eigh(np.cov(coefficients.T), within)[1]
    return vectors[:, ::-1][:, :_DIMENSIONS].astype(np.float32)


def _changed(images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return pictures rotated, scaled and shifted at random; half of them with a marker, half of higher local contrast.

    Args:
        images: uint8 `(N, S, S)`.
        generator: of the changes.
    """
    count = len(images)
    angle = np.deg2rad(generator.uniform(-3, 3, count))
    maps = np.zeros((count, 2, 3), np.float32) + IDENTITY
    maps[:, 0, 0], maps[:, 0, 1] = np.cos(angle), -np.sin(angle)
    maps[:, 1, 0], maps[:, 1, 1] = np.sin(angle), np.cos(angle)
    maps[:, :, :2] *= generator.uniform(0.9, 1.1, (count, 1, 2))
    maps[:, :, 2] = generator.uniform(-0.05, 0.05, (count, 2))
    changed = warp(images.astype(np.float32), maps)[0].reshape(images.shape)
    local = generator.random(count) < 0.5
    high = contrast_normalised(changed[local], SIDE / 6, 30)
    changed[local] = np.clip(128 + 80 * high, 0, 255)
    for picture in changed[generator.random(count) < 0.5]:
        height, width = generator.integers((3, 4), (7, 20))
        top, left = generator.integers(0, (SIDE - height, SIDE - width))
        picture[top : top + height, left : left + width] = generator.choice((0, 255))
    return changed.astype(np.uint8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def _signed(vectors: np.ndarray, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors with the sign that points along `axis`, for inverted pictures, and True where that is unsure."""
    along = vectors @ axis
    return vectors * np.where(along < 0, -1, 1).astype(np.float32)[:, None], np.abs(along) < _SIGNED


def _index(vectors: np.ndarray) -> Any:
    """Return a Faiss index of unit vectors `(N, D)` by inner product."""
    import faiss

    faiss.omp_set_num_threads(environment.cores())
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if len(vectors) > _EXACT:
        cells = int(3 * np.sqrt(len(vectors)))
        index = faiss.IndexIVFFlat(index, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 6, 1, _TRAINED
        index.train(vectors)
        index.nprobe = _PROBED
    index.add(vectors)
    return index
