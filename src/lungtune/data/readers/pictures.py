"""Reader of PNG and JPEG in any mode, through Pillow."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from lungtune.data.readers.base import MAX_PIXELS, Picture, UnreadableImageError, short, to_8_bit

if TYPE_CHECKING:
    from PIL import Image

KIND = "image"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
FORMATS = ("PNG", "JPEG")

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""Exceptions that Pillow and its plugins raise on damaged files, including decompression-bomb errors."""


def recognises(data: bytes) -> bool:
    """True if a file's first bytes are those of a PNG or JPEG."""
    return data.startswith((b"\x89PNG", b"\xff\xd8"))


def extent(data: bytes) -> tuple[int, int]:
    """Return width and height of the upright image, from its header.

    Raises:
        UnreadableImageError: see `open_image`.
    """
    image = _open(data)
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def open_image(data: bytes, *, size: int | None = None, channels: int = 1, voi: bool = False) -> Picture:
    """Decode an image to mode L or, with 3 channels, RGB.

    Args:
        data: the file's bytes.
        size: a JPEG may be decoded at a fraction whose longer side is at least twice that many pixels.
        channels: 1 or 3.
        voi: ignored.

    Raises:
        UnreadableImageError: neither PNG nor JPEG, too large, truncated or damaged.
    """
    image = _open(data)
    mode, kind = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
    return Picture(_decoded(image, size, "L" if channels == 1 else "RGB"), mode, kind)


def open_mask(data: bytes) -> np.ndarray:
    """Return uint8 `(H, W)`, 255 inside the mask, else 0.

    Raises:
        UnreadableImageError: see `open_image`; or the mask is dark everywhere without being black.
    """
    from PIL import Image, ImageOps

    image = _open(data)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        gray = image.mode.startswith(("L", "I", "F"))
        bands = [np.asarray(band) for band in (image if gray else image.convert("RGB")).split()]
        values = bands[0] if gray else functools.reduce(np.maximum, bands)  # what follows in gray is transparency
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    brightest = values.max()
    if 0 < brightest <= 127:
        raise UnreadableImageError(f"must be white (above 127) inside, but its brightest pixel is {brightest}")
    return np.where(values > 127, np.uint8(255), np.uint8(0))


def _open(data: bytes) -> Image.Image:
    """Open without decoding.

    Raises:
        UnreadableImageError: neither PNG nor JPEG nor DICOM, or so large that it may be a decompression bomb.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnreadableImageError("is neither PNG nor JPEG nor DICOM") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels") from None
    except _UNREADABLE as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels")
    return image


def _decoded(image: Image.Image, size: int | None, mode: str) -> Image.Image:
    """Decode to mode L or RGB. With `size`, a JPEG may be decoded at a fraction that is at least twice that long.

    Raises:
        UnreadableImageError: the pixels are truncated or damaged.
    """
    from PIL import Image, ImageOps

    try:
        if image.format in ("JPEG", "MPO"):
            full = max(image.size)
            want = image.size if size is None else tuple(max(1, 2 * size * side // full) for side in image.size)
            image.draft("L" if mode == "L" else None, want)  # type: ignore[arg-type]
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = Image.fromarray(to_8_bit(np.asarray(image)))
        elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            over = image.convert("RGBA")
            black = Image.new("RGBA", over.size, (0, 0, 0, 255))
            image = Image.alpha_composite(black, over)
        return image if image.mode == mode else image.convert(mode)
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
