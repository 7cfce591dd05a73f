"""Geometric primitives of a phantom.

A picture spans x and y in [-1, 1], y pointing down; x < 0 is the patient's right side, as on a film.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float32]


def grid(size: int) -> tuple[Array, Array]:
    """Return the pixel centres x, y ``(size, size)`` in [-1, 1]."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def ellipsoid(x: Array, y: Array, at: tuple[float, float], axes: tuple[float, float], tilt: float = 0.0) -> Array:
    """Return the path length through an ellipsoid, 1 at its centre (the projected Shepp-Logan ellipse).

    ``tilt`` turns it, in radians, clockwise on the picture.
    """
    return np.sqrt(np.maximum(1 - radius(x, y, at, axes, tilt) ** 2, 0))


def radius(x: Array, y: Array, at: tuple[float, float], axes: tuple[float, float], tilt: float = 0.0) -> Array:
    """Return the elliptic radius: 0 at the centre, 1 on the ellipse's edge."""
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    if tilt:
        c, s = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    return np.hypot(dx / np.float32(axes[0]), dy / np.float32(axes[1]))


def step(value: Array, width: float) -> Array:
    """Return a smooth step from 0 to 1 around ``value`` 0; ``width`` is about half its rise."""
    return 1 / (1 + np.exp(np.clip(-value / np.float32(width), -30, 30)))


def union(*lengths: Array) -> Array:
    """Return the smooth union of path lengths through overlapping organs."""
    total = np.zeros_like(lengths[0])
    for length in lengths:
        square = length * length
        total += square * square
    return np.sqrt(np.sqrt(total))


def tube(distance: Array, half_width: Array | float) -> Array:
    """Return the path length through a bone of ``half_width``: a dense cortex around a lighter marrow, at most 1."""
    outer = np.sqrt(np.maximum(1 - (distance / half_width) ** 2, 0))
    inner = np.sqrt(np.maximum(1 - (distance / (half_width * np.float32(0.72))) ** 2, 0))
    return outer - np.float32(0.45) * inner
