"""Reader of raw `.IMG` files of the JSRT Digital Image Database.

A file has no header: 2048 x 2048 big-endian 16-bit values of 12 bits, row by row, 0 white. They are inverted, so that
air is dark, as in every other format.
"""

from __future__ import annotations

import numpy as np

from lungtune.data.readers import levels
from lungtune.data.readers.base import Picture, UnreadableImageError

KIND = "image"
SUFFIXES = frozenset({".img"})
SIDE = 2048
"""Width and height in pixels."""

BYTES = 2 * SIDE * SIDE
HIGHEST = 4095
_FORMAT = f"a raw image of the JSRT database, {SIDE} x {SIDE} big-endian 16-bit values without a header"


def recognises(data: bytes) -> bool:
    """True if a whole file has the size and no value above 12 bits; no file of another format does."""
    return len(data) == BYTES and bool(_values(data).max() <= HIGHEST)


def extent(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises:
        UnreadableImageError: see `open_image`.
    """
    _checked(data)
    return SIDE, SIDE


def open_image(data: bytes, *, size: int | None = None, channels: int = 1, voi: bool = False) -> Picture:
    """Decode an image to mode L or, with 3 channels, RGB; `size` and `voi` are ignored.

    Raises:
        UnreadableImageError: another size, or values of more than 12 bits.
    """
    from PIL import Image

    gray, scaling = levels.to_8_bit(HIGHEST - _checked(data))
    shown = Image.fromarray(gray)
    return Picture(shown if channels == 1 else shown.convert("RGB"), "inverted, 12 bit", "IMG", scaling.oddity)


def _values(data: bytes) -> np.ndarray:
    return np.frombuffer(data, ">u2")


def _checked(data: bytes) -> np.ndarray:
    """Return the values as they are stored, uint16 `(SIDE, SIDE)`."""
    if len(data) != BYTES:
        raise UnreadableImageError(f"must be {_FORMAT}, {BYTES:,} bytes, but has {len(data):,} bytes")
    values = _values(data)
    if (highest := int(values.max())) > HIGHEST:
        raise UnreadableImageError(f"must be {_FORMAT} of 0 to {HIGHEST:,}, but holds {highest:,}")
    return values.reshape(SIDE, SIDE).astype(np.uint16)
