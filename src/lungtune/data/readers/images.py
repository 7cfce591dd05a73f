"""Facts, letterboxed pixels and masks of images of any format (see the readers `pictures` and `dicom`).

All become 8-bit, gray or RGB:

- 16-bit (and wider) gray and colour are scaled by the levels they hold (`levels`). Chest X-rays in 16-bit files use 10
  to 16 of the bits, so the full range would leave many of them black.
- Transparent pixels are composited over black.
- The EXIF orientation is applied.

A digest identifies an image's bytes and the way they are read. It is the SHA-1 of the file; of `voi:` and the file for
a DICOM image whose VOI window is applied; and of `rules 2:` and these where the second version of the decoding rules
gives other pixels than the first. Caches keyed by digest therefore never mix them, and an image that all versions
decode alike keeps its digest.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from lungtune.core import environment
from lungtune.data import readers
from lungtune.data.fingerprint import fingerprint
from lungtune.data.readers import dicom
from lungtune.data.readers.base import Facts, UnreadableImageError, sha1
from lungtune.data.readers.mask_values import inside

Image.preinit()  # registers formats, as the imports of plugins do; not left to the first of several threads

THUMBNAIL = 256
"""Longer side in pixels of the thumbnail that fingerprints are computed from."""

NO_MASK = "is an X-ray (DICOM or raw .IMG), but a mask must be PNG or JPEG"
"""Why a file is no mask whose reader opens none."""

PREVIEW = 16
"""Side in pixels of the preview."""


@contextmanager
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread per usable core. Pillow decodes without the interpreter lock, so threads suffice.

    Library warnings are suppressed inside the block: those that matter are raised as errors here.
    """
    with warnings.catch_warnings():  # here and not in the threads: warning filters belong to the whole process
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, on odd but readable headers
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pool = ThreadPoolExecutor(environment.cores())
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def digest(data: bytes, *, voi: bool = False, rules: int = 1) -> str:
    """Return an image's digest.

    Args:
        data: the file's bytes.
        voi: True if the VOI window of DICOM images is applied.
        rules: version of the decoding rules, see `Picture`.
    """
    prefix = f"rules {rules}:" if rules > 1 else ""
    if voi and dicom.recognises(data):
        prefix += "voi:"
    return sha1(prefix.encode(), data) if prefix else sha1(data)


def reading(data: bytes, expected: str) -> dict[str, Any] | None:
    """Return how an image must be read, `voi` and `rules`, so that `expected` is its digest; None of other bytes."""
    for options in ({}, {"voi": True}, {"rules": 2}, {"voi": True, "rules": 2}):
        if digest(data, **options) == expected:
            return options
    return None


def describe(
    data: bytes, path: str = "", *, voi: bool = False, size: int | None = None
) -> tuple[Facts, np.ndarray | None]:
    """Decode an image, gray, and return its facts.

    Args:
        data: the file's bytes.
        path: its name, which selects the reader of bytes that none recognises.
        voi: apply the VOI window of DICOM images.
        size: also return the letterbox of this side, unless `letterboxed` decodes the file otherwise.

    Returns:
        The facts, and uint8 `(size, size)` or None.

    Raises:
        UnreadableImageError: see `letterboxed`.
    """
    picture = _image_reader(data, path).open_image(data, voi=voi)
    gray = picture.image
    values = np.asarray(gray)
    small = thumbnail(gray)
    facts = Facts(
        sha1=digest(data, voi=voi, rules=picture.rules),
        pixels=sha1(f"{gray.width}x{gray.height}:".encode(), values),
        width=gray.width,
        height=gray.height,
        mode=picture.mode,
        type=picture.type,
        oddity=picture.oddity,
        **seen(small, values if small is gray else np.asarray(small)),
    )
    reduced = picture.type == "JPEG" and size is not None and max(gray.size) >= 4 * size  # decoded at a fraction
    if size is None or reduced:
        return facts, None
    return facts, values if gray.size == (size, size) else _letterbox(gray, size)


def seen(small: Image.Image, values: np.ndarray) -> dict[str, Any]:
    """Return the facts that are computed from a thumbnail, by name; `values` are its pixels."""
    count, flat = values.size, values.ravel().astype(np.float32)
    mean = float(flat.mean())
    return {
        "fingerprint": fingerprint(small, values),
        "mean": mean,
        "spread": max(0.0, float(flat @ flat) / count - mean * mean) ** 0.5,
        "black": (count - int(np.count_nonzero(values))) / count,
        "white": int(np.count_nonzero(values == 255)) / count,
        "preview": small.resize((PREVIEW, PREVIEW), Image.Resampling.BOX).tobytes(),
    }


def letterboxed(
    data: bytes, size: int, *, channels: int = 1, voi: bool = False, rules: int | None = None
) -> np.ndarray:
    """Decode an image to a square: aspect ratio kept, centred, padded with black, antialiased.

    Args:
        data: the file's bytes.
        size: side in pixels.
        channels: 1 gray, 3 RGB; gray images have three equal channels then.
        voi: apply the VOI window of DICOM images.
        rules: version of the decoding rules that the pixels must come from; any by default.

    Returns:
        uint8 `(size, size)`, or `(3, size, size)` with 3 channels.

    Raises:
        UnreadableImageError: neither PNG, JPEG nor DICOM, too large, truncated or damaged; decoded by other rules;
            or see `dicom.decode`.
        ValueError: other channels.
    """
    if channels not in (1, 3):
        raise ValueError(f"an image must be read with 1 or 3 channels, but got {channels}")
    picture = _image_reader(data).open_image(data, size=size, channels=channels, voi=voi)
    if rules is not None and rules != picture.rules:
        raise UnreadableImageError(
            f"is decoded by rules {picture.rules}, no longer by rules {rules}, under which its study began"
        )
    return _letterbox(picture.image, size)


def _letterbox(image: Image.Image, size: int) -> np.ndarray:
    """Return uint8 `(size, size)` of mode L, `(3, size, size)` of RGB."""
    left, top, width, height = _box(image.size, size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    small = np.asarray(image)
    if small.ndim == 2:
        return _laid(small, left, top, size)
    return np.stack([_laid(small[:, :, channel], left, top, size) for channel in range(small.shape[2])])


def letterboxed_mask(mask: bytes, image: bytes, size: int, values: Sequence[int] = ()) -> np.ndarray:
    """Decode a mask to uint8 `(size, size)`, 0 or 255, aligned with `letterboxed(image, size)`.

    Nearest neighbours, no antialiasing.

    Args:
        mask: the mask's bytes.
        image: its image's bytes.
        size: side in pixels.
        values: the mask's values that are inside; see `mask_values.inside`.

    Raises:
        UnreadableImageError: either file cannot be read, or see `mask_values.inside`.
    """
    if not hasattr(reader := _image_reader(mask), "open_mask"):
        raise UnreadableImageError(NO_MASK)
    left, top, width, height = _box(_image_reader(image).extent(image), size)
    covered = Image.fromarray(inside(reader.open_mask(mask), values))
    return _laid(np.asarray(covered.resize((width, height), Image.Resampling.NEAREST)), left, top, size)


def _image_reader(data: bytes, path: str = "") -> ModuleType:
    """Return the reader of an image.

    Raises:
        UnreadableImageError: it is a volume.
    """
    reader = readers.find(data, path)
    if reader.KIND != "image":
        raise UnreadableImageError("is a volume, but must be an image")
    return reader


def _box(extent: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a picture in its letterbox."""
    scale = size / max(extent)
    width, height = (max(1, round(side * scale)) for side in extent)
    return (size - width) // 2, (size - height) // 2, width, height


def _laid(small: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    square = np.zeros((size, size), np.uint8)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def thumbnail(gray: Image.Image) -> Image.Image:
    """Return an image of mode L, aspect kept, whose longer side is at most `THUMBNAIL` px, for fingerprints.

    Smaller images are returned as they are.
    """
    longer = max(gray.size)
    if longer <= THUMBNAIL:
        return gray
    width, height = (max(1, round(side * THUMBNAIL / longer)) for side in gray.size)
    return gray.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
