"""Reader of NumPy .npy files: volumes `(D, H, W)` or `(C, D, H, W)`, masks `(D, H, W)` or `(1, D, H, W)`."""

from __future__ import annotations

import io
import math

import numpy as np

from lungtune.data.readers.base import MAX_VOXELS, UnreadableImageError, Voxels, short

KIND = "volume"
SUFFIXES = frozenset({".npy"})
_MAGIC = b"\x93NUMPY"


def recognises(data: bytes) -> bool:
    """True if a file's first bytes are those of a .npy file."""
    return data.startswith(_MAGIC)


def extent(data: bytes) -> tuple[int, int, int]:
    """Return width, height and depth from the header.

    Raises:
        UnreadableImageError: see `open_volume`.
    """
    depth, height, width = _header(data)[0][-3:]
    return width, height, depth


def open_volume(data: bytes) -> Voxels:
    """Decode a volume.

    Raises:
        UnreadableImageError: no .npy file, damaged or truncated, pickled objects, no real numbers, another number of
            axes, no voxels, too many of them, or some that are not finite.
    """
    values = _array(data)
    if values.ndim == 3:
        values = values[None]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise UnreadableImageError(f"must hold finite numbers, but {count:,} voxels are NaN or infinite")
    return Voxels(values, str(values.dtype), "NPY")


def open_mask(data: bytes) -> np.ndarray:
    """Return the values of a mask, `(D, H, W)`.

    Raises:
        UnreadableImageError: see `open_volume`; or the mask has several channels.
    """
    values = open_volume(data).values
    if len(values) != 1:
        raise UnreadableImageError(f"must have one channel to be a mask, but has {len(values)}")
    return values[0]


def _array(data: bytes) -> np.ndarray:
    shape, fortran, dtype, start = _header(data)
    need, got = math.prod(shape) * dtype.itemsize, len(data) - start
    if got < need:
        raise UnreadableImageError(f"is truncated: it has {got:,} of {need:,} bytes of voxels")
    flat = np.frombuffer(data, dtype, math.prod(shape), start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Return shape, True for Fortran's order, type, and the offset of the values in bytes."""
    if not recognises(data):
        raise UnreadableImageError("is no .npy file, though its name says so")
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(stream)
    except Exception as error:  # numpy parses the header as Python and raises anything on damaged ones
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    if dtype.hasobject:
        raise UnreadableImageError("holds pickled Python objects, which are not read; save an array of numbers")
    if dtype.kind not in "buif":
        raise UnreadableImageError(f"must hold real numbers, but holds {dtype}")
    if len(shape) not in (3, 4):
        raise UnreadableImageError(
            f"must have the axes (depth, height, width) or (channels, depth, height, width), but has shape {shape}"
        )
    if min(shape) < 1:
        raise UnreadableImageError(f"holds no voxels: its shape is {shape}")
    if math.prod(shape[-3:]) > MAX_VOXELS:
        raise UnreadableImageError(f"has more than {MAX_VOXELS:,} voxels")
    return shape, fortran, dtype, stream.tell()
