"""Reader of PNG, JPEG, BMP, TIFF, WebP, GIF and JPEG 2000 in any mode, through Pillow."""

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


_INVISIBLE = "the alpha of every pixel is 0 and is left out of account"


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
    """Return the values of a mask, `(H, W)`: of a picture in colour each pixel's brightest channel.

    Raises:
        UnreadableImageError: see `open_image`; or areas have different colours, which brightness does not distinguish.
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


def _open(data: bytes) -> ImageFile.ImageFile:
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
    gray, scaling = levels.to_8_bit(wide_colour.gray(colour), opacity == 0)
    if channels == 3 and scaling.high > scaling.low:
        gray = between(np.broadcast_to(colour, (*gray.shape, 3)), scaling.low, scaling.high)
    oddities += filter(None, [scaling.oddity])
    shown = Image.fromarray(gray)
    shown.info = image.info  # with its EXIF orientation
    shown = _upright(shown)
    return Picture(shown if channels == 1 else shown.convert("RGB"), mode, kind, "; ".join(oddities), 2)
