"""Reader of PNG and JPEG in any mode, through Pillow."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from lungtune.data.readers import jpeg_streams, levels, wide_colour
from lungtune.data.readers.base import MAX_PIXELS, Picture, UnreadableImageError, between, short

if TYPE_CHECKING:
    from PIL import Image, ImageFile

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


_INVISIBLE = "the alpha of every pixel is 0 and is left out of account"


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
        UnreadableImageError: neither PNG nor JPEG, too large, truncated or damaged. A JPEG that was cut and
            closed again is noticed without `size` only.
    """
    from PIL import Image

    image = _open(data)
    mode, kind = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
    try:
        if wide_colour.is_wide(image):
            return _wide(image, _open(data), channels, kind)
        if kind == "JPEG":
            full = max(image.size)
            want = image.size if size is None else tuple(max(1, 2 * size * side // full) for side in image.size)
            image.draft("L" if channels == 1 else None, want)  # type: ignore[arg-type]
        image.load()
        if kind == "JPEG" and size is None and jpeg_streams.is_cut(data, image):
            raise UnreadableImageError("is truncated: its pixels end before its last row")
        shown, oddity, rules = _gray_or_colour(_upright(image))
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    wanted = "L" if channels == 1 else "RGB"
    return Picture(shown if shown.mode == wanted else shown.convert(wanted), mode, kind, oddity, rules)


def open_mask(data: bytes) -> np.ndarray:
    """Return uint8 `(H, W)`, 255 inside the mask, else 0.

    Raises:
        UnreadableImageError: see `open_image`; or the mask is dark everywhere without being black.
    """
    from PIL import Image

    image = _open(data)
    try:
        image.load()
        upright = _upright(image)
        gray = upright.mode.startswith(("L", "I", "F"))
        bands = [np.asarray(band) for band in (upright if gray else upright.convert("RGB")).split()]
        values = bands[0] if gray else functools.reduce(np.maximum, bands)  # what follows in gray is transparency
    except (*_UNREADABLE, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    brightest = values.max()
    if 0 < brightest <= 127:
        raise UnreadableImageError(f"must be white (above 127) inside, but its brightest pixel is {brightest}")
    return np.where(values > 127, np.uint8(255), np.uint8(0))


def _open(data: bytes) -> ImageFile.ImageFile:
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


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a decoded image."""
    from PIL import ImageOps

    return image if image.getexif().get(0x0112, 1) == 1 else ImageOps.exif_transpose(image)


def _gray_or_colour(image: Image.Image) -> tuple[Image.Image, str, int]:
    """Return an image of 8 bits without transparency, and its `oddity` and `rules` (see `Picture`).

    Raises:
        UnreadableImageError: its values are not finite.
    """
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        wide = np.asarray(image)
        if wide.dtype.kind == "f" and not np.isfinite(wide).all():
            raise UnreadableImageError("must hold finite numbers, but some pixels are NaN or infinite")
        key = image.info.get("transparency")
        gray, scaling = levels.to_8_bit(wide, None if key is None else wide == key)
        return Image.fromarray(gray), scaling.oddity, 1 if key is None and not scaling.oddity else 2
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        if not np.asarray(over.getchannel("A")).any():
            return over.convert("RGB"), _INVISIBLE, 2
        black = Image.new("RGBA", over.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, over)
    return image, "", 1


def _wide(image: ImageFile.ImageFile, again: ImageFile.ImageFile, channels: int, kind: str) -> Picture:
    """Decode an image with several channels of 16 bits; colours are scaled as their luma is."""
    from PIL import Image

    mode = wide_colour.raw_mode(image).removesuffix("B")
    colour, opacity = wide_colour.decode(image, again)
    oddities = []
    if not opacity.any():
        oddities, opacity = [_INVISIBLE], np.ones_like(opacity)
    colour = colour * opacity[..., None]
    gray, found = levels.to_8_bit(wide_colour.gray(colour), opacity == 0)
    if channels == 3 and found.high > found.low:
        gray = between(np.broadcast_to(colour, (*gray.shape, 3)), found.low, found.high)
    oddities += filter(None, [found.oddity])
    shown = Image.fromarray(gray)
    shown.info = image.info  # with its EXIF orientation
    shown = _upright(shown)
    return Picture(shown if channels == 1 else shown.convert("RGB"), mode, kind, "; ".join(oddities), 2)
