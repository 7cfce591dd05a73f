"""Reader of PNG, JPEG, BMP, TIFF, WebP, GIF and JPEG 2000 in any mode, through Pillow."""

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
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".j2k"}
)
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000")
_FIRST = (
    b"\x89PNG",
    b"\xff\xd8",
    b"II*\0",
    b"MM\0*",
    b"GIF8",
    b"\0\0\0\x0cjP  \r\n\x87\n",
    b"\xff\x4f\xff\x51",
)
"""First bytes of files of these formats; those of BMP and WebP are in `recognises`."""

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
    """True if a file's first bytes are those of one of `FORMATS`."""
    return (
        data.startswith(_FIRST)
        or (data.startswith(b"RIFF") and data[8:12] == b"WEBP")
        or (data.startswith(b"BM") and data[6:10] == bytes(4))
    )


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
    """Return the values of a mask, `(H, W)`: of a picture in colour each pixel's brightest channel.

    Raises:
        UnreadableImageError: see `open_image`; or areas have different colours, which its brightness does not tell.
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
    if not gray and _hues(np.stack(bands[:3], axis=-1)) > 1:
        raise UnreadableImageError(
            "has areas of several colours, but must be black and white, or hold a number per area"
        )
    return values


def _hues(colours: np.ndarray) -> int:
    """Return how many different colours but black fill areas of at least 3 x 3 pixels, `(H, W, 3)` of uint8."""
    coarse = (colours >> 6).astype(np.int64) @ (16, 4, 1)
    inner = coarse[1:-1, 1:-1]
    flat = inner > 0
    for down in range(3):
        for right in range(3):
            flat &= coarse[down : down + inner.shape[0], right : right + inner.shape[1]] == inner
    counts = np.unique(inner[flat], return_counts=True)[1]
    return int((counts >= max(4, colours.shape[0] * colours.shape[1] // 1000)).sum())


def _open(data: bytes) -> Image.Image:
    """Open without decoding.

    Raises:
        UnreadableImageError: neither PNG nor JPEG nor DICOM, or so large that it may be a decompression bomb.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise UnreadableImageError("is neither PNG nor JPEG nor DICOM nor of another format that is read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels") from None
    except _UNREADABLE as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UnreadableImageError(f"has {frames} frames, but an X-ray must have one")
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
