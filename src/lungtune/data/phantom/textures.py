"""Banks of periodic noise fields and vessel trees, computed once per process and image size.

Generating noise by FFT would dominate a phantom's cost; rolling and flipping a few stored fields at random costs
microseconds and does not repeat within a set.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import ndimage

from lungtune.data.phantom.geometry import Array

Kind = Literal["warp", "cloud", "rough", "ridge", "grain"]

_SEED = 20_250_101
_FIELDS = 12
_TREES = 8
TREE_SIZE = 192
"""Width and height of a vessel tree in the bank, px."""

# Band of each kind in cycles per picture (low, high) and the exponent of its amplitude spectrum.
_BANDS: dict[Kind, tuple[float, float, float]] = {
    "warp": (0.5, 3.5, 1.5),
    "cloud": (1.0, 10.0, 1.6),
    "rough": (3.0, 24.0, 1.2),
    "ridge": (9.0, 16.0, 0.4),
    "grain": (10.0, 30.0, 0.6),
}


@lru_cache(maxsize=16)
def _bank(kind: Kind, size: int) -> Array:
    """Return ``(_FIELDS, size, size)`` periodic fields of mean 0 and standard deviation 1."""
    low, high, power = _BANDS[kind]
    rng = np.random.default_rng([_SEED, sorted(_BANDS).index(kind), size])
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]) * size
    amplitude = np.where((frequency >= low) & (frequency <= high), np.maximum(frequency, low) ** -power, 0.0)
    bank = np.empty((_FIELDS, size, size), np.float32)
    for i in range(_FIELDS):
        spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * amplitude
        noise = np.fft.irfft2(spectrum, s=(size, size))
        if kind == "ridge":  # thin bright lines where smooth noise crosses zero: reticulation
            noise = np.exp(-((noise / noise.std()) ** 2) / 0.10)
        bank[i] = (noise - noise.mean()) / noise.std()
    return bank


def noise(kind: Kind, size: int, rng: np.random.Generator) -> Array:
    """Return one field ``(size, size)``, mean 0, standard deviation 1, from the bank, rolled and flipped at random."""
    field = _bank(kind, size)[rng.integers(_FIELDS)]
    if rng.random() < 0.5:
        field = field.T
    shift = (rng.random(2) * size).astype(int)
    return np.roll(field, (int(shift[0]), int(shift[1])), (0, 1))


@lru_cache(maxsize=1)
def _trees() -> Array:
    """Return ``(_TREES, TREE_SIZE, TREE_SIZE)`` projected vessel trees, 0 outside and about 1 in the largest vessel.

    A tree lives in one lung's own coordinates: across from 0 (mediastinum) to 1 (chest wall), down from 0 (apex)
    to 1 (base); its hilum sits at (0.05, 0.48).
    """
    return np.stack([_tree(np.random.default_rng([_SEED, 99, i])) for i in range(_TREES)])


def _tree(rng: np.random.Generator) -> Array:
    layers: dict[int, list[np.ndarray]] = {}
    twigs = [
        (np.array([0.05, 0.48 + rng.normal(0, 0.02)]), angle + rng.normal(0, 0.12), 0.020, 0)
        for angle in np.linspace(-1.35, 1.40, 9)
    ]
    while twigs:
        start, angle, width, depth = twigs.pop()
        steps = int(rng.integers(16, 30))
        turn = rng.normal(0, 0.02) + 0.012 * np.sign(angle)
        angles = angle + turn * np.arange(steps)
        step = 0.0075 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        path = start + np.cumsum(step, axis=0)
        level = max(0, min(3, round(width * TREE_SIZE / 1.1)))
        layers.setdefault(level, []).append(np.c_[path, np.full(steps, width)])
        if depth < 5 and width > 0.003:
            for side in (-1, 1):
                fork = side * rng.uniform(0.18, 0.55)
                twigs.append((path[-1], angles[-1] + fork, width * rng.uniform(0.62, 0.80), depth + 1))
    tree = np.zeros((TREE_SIZE, TREE_SIZE))
    for level, paths in layers.items():
        points = np.concatenate(paths)
        ij = np.rint(points[:, 1::-1] * TREE_SIZE).astype(int)
        inside = ((ij >= 0) & (ij < TREE_SIZE)).all(axis=1)
        layer = np.zeros_like(tree)
        np.add.at(layer, tuple(ij[inside].T), points[inside, 2])
        sigma = 0.7 + 0.55 * level
        tree += ndimage.gaussian_filter(layer, sigma) * sigma
    return np.clip(tree / np.quantile(tree, 0.995), 0, 1.6).astype(np.float32)


def vessels(index: int, across: Array, down: Array) -> Array:
    """Sample vessel tree ``index`` at one lung's coordinates ``(S, S)``; 0 outside the lung's unit square."""
    at = np.stack([down, across]) * TREE_SIZE
    return ndimage.map_coordinates(_trees()[index % _TREES], at, order=1, mode="constant", prefilter=False)
