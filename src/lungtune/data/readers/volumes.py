"""Facts, cubes and masks of volumes of any format (see the reader `npy`).

Channels of unsigned bytes stay as they are, truth values become 0 and 255; all else is scaled linearly from the 0.5th
to the 99.5th percentile of its channel, as wide gray images are. Voxels have the shape
that the reader's `extent` implies: cubes in .npy files, which have no spacing.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from PIL import Image

from lungtune.data import readers
from lungtune.data.fingerprint import fingerprint
from lungtune.data.readers.base import Facts, UnreadableImageError, between, limits, sha1
from lungtune.data.readers.images import thumbnail


def describe(data: bytes, path: str = "") -> Facts:
    """Decode a volume and return its facts; near-duplicates are detected by the middle slice of its first channel.

    Raises:
        UnreadableImageError: see the format's reader.
    """
    values, mode, kind = _volume_reader(data, path).open_volume(data)
    channels, depth, height, width = values.shape
    eight = np.stack([_to_8_bit(channel) for channel in values])
    pixels = sha1("x".join(map(str, eight.shape)).encode() + b":" + eight.tobytes())
    middle = thumbnail(Image.fromarray(np.ascontiguousarray(eight[0, depth // 2])))
    return Facts(sha1(data), pixels, width, height, mode, kind, fingerprint(middle), "volume", depth, channels)


def cube(data: bytes, size: int, *, channels: int = 1) -> np.ndarray:
    """Decode a volume to uint8 `(channels, size, size, size)`: aspect kept, centred, padded with 0, antialiased.

    Each axis is resampled with a triangle filter as wide as the reduction, which is linear interpolation where the
    volume grows.

    Raises:
        UnreadableImageError: it has other channels; or see the format's reader.
    """
    reader = _volume_reader(data)
    values = reader.open_volume(data).values
    if len(values) != channels:
        raise UnreadableImageError(f"must have {channels} channel{'s' * (channels != 1)}, but has {len(values)}")
    low, sides = _box(reader.extent(data), size)
    full = np.zeros((channels, size, size, size), np.uint8)
    for out, channel in zip(full, values, strict=True):
        small = _to_8_bit(channel).astype(np.float32)
        for axis in np.argsort([new / old for new, old in zip(sides, channel.shape, strict=True)], kind="stable"):
            small = _resampled(small, int(axis), sides[axis])
        _inner(out, low, sides)[...] = np.clip(small + 0.5, 0, 255).astype(np.uint8)
    return full


def cube_mask(mask: bytes, volume: bytes, size: int) -> np.ndarray:
    """Decode a mask to uint8 `(size, size, size)`, 0 or 255, aligned with `cube(volume, size)`.

    Nearest neighbours; the format's reader defines the inside.

    Raises:
        UnreadableImageError: either file cannot be read.
    """
    low, sides = _box(_volume_reader(volume).extent(volume), size)
    inside = _volume_reader(mask).open_mask(mask)
    for axis, (new, old) in enumerate(zip(sides, inside.shape, strict=True)):
        nearest = np.minimum(((np.arange(new) + 0.5) * old / new).astype(np.int64), old - 1)
        inside = inside.take(nearest, axis=axis)
    full = np.zeros((size, size, size), np.uint8)
    _inner(full, low, sides)[...] = inside
    return full


def _volume_reader(data: bytes, path: str = "") -> ModuleType:
    """Return the reader of a volume.

    Raises:
        UnreadableImageError: it is an image.
    """
    reader = readers.find(data, path)
    if reader.KIND != "volume":
        raise UnreadableImageError("is an image, but must be a volume")
    return reader


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Convert one channel `(D, H, W)`; see the module."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return np.where(values, np.uint8(255), np.uint8(0))
    low, high = limits(values)
    eight = np.zeros(values.shape, np.uint8)
    if high > low:
        for out, wide in zip(eight, values, strict=True):  # slice by slice: a whole float32 copy is four times as large
            out[...] = between(wide, low, high)
    return eight


def _box(extent: tuple[float, float, float], size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the lowest corner and the sides of a volume in its cube, `(D, H, W)` both, from width, height, depth."""
    scale = size / max(extent)
    sides = tuple(max(1, round(side * scale)) for side in reversed(extent))
    return tuple((size - side) // 2 for side in sides), sides


def _inner(full: np.ndarray, low: tuple[int, ...], sides: tuple[int, ...]) -> np.ndarray:
    return full[tuple(slice(start, start + side) for start, side in zip(low, sides, strict=True))]


def _resampled(values: np.ndarray, axis: int, side: int) -> np.ndarray:
    """Resample one axis of float32 values. Sparse rows are summed in one order on every machine."""
    from scipy.sparse import csr_array

    old = values.shape[axis]
    if old == side:
        return values
    scale = max(1.0, old / side)
    centres = (np.arange(side) + 0.5) * old / side - 0.5
    distances = np.abs(np.arange(old)[None] - np.clip(centres, 0, old - 1)[:, None]) / scale
    weights = np.maximum(0, 1 - distances)
    matrix = csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))
    moved = np.moveaxis(values, axis, 0)
    product = matrix @ np.ascontiguousarray(moved).reshape(old, -1)
    return np.moveaxis(product.reshape(side, *moved.shape[1:]), 0, axis)
