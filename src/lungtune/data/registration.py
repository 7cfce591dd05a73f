"""Affine registration of pairs of small pictures by Gauss-Newton steps, and their likeness once aligned.

Affine maps are float32 `(P, 2, 3)`: they map `(y, x, 1)` of the fixed picture, -1..1 from edge to edge, to `(y, x)` of
the moving one. The inverse compositional algorithm (Baker and Matthews 2004) needs each fixed picture's gradients only
once.
"""

from __future__ import annotations

import functools

import numpy as np

IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
_LIMIT = np.array([[0.2, 0.15, 0.25], [0.15, 0.2, 0.25]], np.float32)
"""Greatest departure from the identity: crops of 10 %, rotations of 8 degrees."""

_DAMPING = 0.01
_BLOCKS = 4  # a side
_BEST = 0.75  # share of blocks that count: a marker or a border may hide the others
_COVERED = 0.4  # least share of a block's pixels that both pictures show
_FLAT = 0.01  # least variance of a block that shows something
_FEWEST = 8  # least number of blocks that show something


@functools.cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of the pixels, float32 `(side * side,)`, -1..1."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y.ravel(), x.ravel()


def warp(images: np.ndarray, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Resample pictures bilinearly.

    Args:
        images: float32 `(P, S, S)`.
        maps: affine maps `(P, 2, 3)`.

    Returns:
        Values `(P, S * S)`, and True where they are inside the picture; outside they are those of the nearest edge.
    """
    count, side, _ = images.shape
    gy, gx = _grid(side)
    centre = np.float32((side - 1) / 2)
    y = (maps[:, 0, :1] * gy + maps[:, 0, 1:2] * gx + maps[:, 0, 2:]) * centre + centre
    x = (maps[:, 1, :1] * gy + maps[:, 1, 1:2] * gx + maps[:, 1, 2:]) * centre + centre
    inside = (y > -0.01) & (y < side - 0.99) & (x > -0.01) & (x < side - 0.99)
    np.clip(y, 0, side - 1.001, out=y)
    np.clip(x, 0, side - 1.001, out=x)
    row, column = y.astype(np.int32), x.astype(np.int32)
    y -= row
    x -= column
    corner = row * side + column + (np.arange(count, dtype=np.int32) * side * side)[:, None]
    flat = images.ravel()
    upper, lower = flat[corner], flat[corner + side]
    upper += (flat[corner + 1] - upper) * x
    lower += (flat[corner + side + 1] - lower) * x
    upper += (lower - upper) * y
    return upper, inside


def align(fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray, steps: int) -> np.ndarray:
    """Refine the affine maps that align moving with fixed pictures.

    Args:
        fixed: float32 `(P, S, S)`, contrast-normalised.
        moving: the same.
        maps: affine maps `(P, 2, 3)` to begin with.
        steps: number of Gauss-Newton steps.
    """
    count, side, _ = fixed.shape
    gy, gx = _grid(side)
    dy, dx = (slope.reshape(count, -1) * ((side - 1) / 2) for slope in np.gradient(fixed, axis=(1, 2)))
    jacobian = np.stack([dy * gy, dy * gx, dy, dx * gy, dx * gx, dx], axis=1).astype(np.float32)
    hessian = jacobian @ jacobian.transpose(0, 2, 1)
    trace = np.trace(hessian, axis1=1, axis2=2)[:, None, None]
    inverse = np.linalg.inv(hessian + (_DAMPING * trace / 6 + 1e-6) * np.eye(6, dtype=np.float32))
    target = fixed.reshape(count, -1)
    for _ in range(steps):
        values, inside = warp(moving, maps)
        values *= inside
        gain = np.einsum("pn,pn->p", values, target) / np.maximum(np.einsum("pn,pn->p", values, values), 1e-6)
        values *= np.clip(gain, 0.5, 2)[:, None]
        values -= target * inside
        change = inverse @ (jacobian @ values[..., None])
        step = _square(change.reshape(count, 2, 3) + IDENTITY)
        maps = (_square(maps) @ np.linalg.inv(step))[:, :2]
        maps = IDENTITY + np.clip(maps - IDENTITY, -_LIMIT, _LIMIT)
    return maps


def likeness(fixed: np.ndarray, moving: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Return the mean correlation of the best three quarters of 4 x 4 blocks, `(P,)`, -1..1.

    Blocks that are flat, or that less than `_COVERED` of the moving picture covers, do not count; with fewer than
    `_FEWEST` others the likeness is 0.

    Args:
        fixed: float32 `(P, S, S)`, contrast-normalised.
        moving: the same.
        maps: affine maps `(P, 2, 3)`.
    """
    count, side, _ = fixed.shape
    values, inside = warp(moving, maps)

    def blocks(flat: np.ndarray) -> np.ndarray:
        small = side // _BLOCKS
        split = flat.reshape(count, _BLOCKS, small, _BLOCKS, small).transpose(0, 1, 3, 2, 4)
        return split.reshape(count, _BLOCKS * _BLOCKS, small * small)

    first, second, mask = blocks(fixed), blocks(values), blocks(inside.astype(np.float32))
    seen = mask.sum(axis=-1, keepdims=True)
    first, second = (
        (values - (values * mask).sum(axis=-1, keepdims=True) / np.maximum(seen, 1)) * mask
        for values in (first, second)
    )
    powers = (first * first).sum(axis=-1) * (second * second).sum(axis=-1)
    seen = seen[..., 0]
    counts = (seen >= _COVERED * mask.shape[-1]) & (powers > (_FLAT * seen) ** 2)
    correlations = np.where(counts, (first * second).sum(axis=-1) / np.sqrt(np.maximum(powers, 1e-12)), -np.inf)
    correlations = -np.sort(-correlations, axis=1)
    number = counts.sum(axis=1)
    used = np.arange(correlations.shape[1]) < np.ceil(_BEST * number)[:, None]
    mean = np.where(used, correlations, 0).sum(axis=1) / np.maximum(used.sum(axis=1), 1)
    return np.where(number >= _FEWEST, mean, 0)


def _square(maps: np.ndarray) -> np.ndarray:
    """Return affine maps as `(P, 3, 3)` matrices."""
    full = np.zeros((len(maps), 3, 3), np.float32)
    full[:, :2] = maps
    full[:, 2, 2] = 1
    return full
