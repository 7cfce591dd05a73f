"""Facts, letterboxed pixels and masks of images of any format (see the readers `pictures` and `dicom`).

All become 8-bit, gray or RGB:

- 16-bit (and wider) gray is scaled linearly from its 0.5th to its 99.5th percentile. Chest X-rays in 16-bit files
  use 10 to 16 of the bits, so the full range would leave many of them black, and a few burned-in marker pixels at
  65535 would do the same to a min-max scaling.
- Transparent pixels are composited over black.
- The EXIF orientation is applied.

A digest identifies an image's bytes and the way they are read: it is the SHA-1 of the file, or of `voi:` and the file
for a DICOM image whose VOI window is applied. Caches keyed by digest therefore never mix the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType

import numpy as np
from PIL import Image

from lungtune.core import environment
from lungtune.data import readers
from lungtune.data.fingerprint import fingerprint
from lungtune.data.readers import dicom
from lungtune.data.readers.base import Facts, UnreadableImageError, sha1

Image.preinit()  # registers the formats; not left to the first of several threads

THUMBNAIL = 256
"""Longer side in pixels of the thumbnail that fingerprints are computed from."""


@contextmanager
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Yield a pool of one thread per usable core. Pillow decodes without the interpreter lock, so threads suffice.

    Library warnings are suppressed inside the block: those that matter are raised as errors here.
    """
    with warnings.catch_warnings():  # here and not in the threads: warning filters belong to the whole process
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, on odd but readable headers
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(environment.cores()) as pool:
            yield pool


def digest(data: bytes, *, voi: bool = False) -> str:
    """Return an image's digest: the SHA-1 of its bytes, of `voi:` and its bytes for DICOM read through its VOI."""
    return sha1(b"voi:" + data if voi and dicom.recognises(data) else data)


def describe(data: bytes, *, voi: bool = False) -> Facts:
    """Decode an image, gray, and return its facts.

    Args:
        data: the file's bytes.
        voi: apply the VOI window of DICOM images.

    Raises:
        UnreadableImageError: see `letterboxed`.
    """
    gray, mode, kind = _image_reader(data).open_image(data, voi=voi)
    pixels = sha1(f"{gray.width}x{gray.height}:".encode() + gray.tobytes())
    small = thumbnail(gray)
    return Facts(digest(data, voi=voi), pixels, gray.width, gray.height, mode, kind, fingerprint(small))


def letterboxed(data: bytes, size: int, *, channels: int = 1, voi: bool = False) -> np.ndarray:
    """Decode an image to a square: aspect ratio kept, centred, padded with black, antialiased.

    Args:
        data: the file's bytes.
        size: side in pixels.
        channels: 1 gray, 3 RGB; gray images have three equal channels then.
        voi: apply the VOI window of DICOM images.

    Returns:
        uint8 `(size, size)`, or `(3, size, size)` with 3 channels.

    Raises:
        UnreadableImageError: neither PNG, JPEG nor DICOM, too large, truncated or damaged; or see `dicom.decode`.
        ValueError: other channels.
    """
    if channels not in (1, 3):
        raise ValueError(f"an image must be read with 1 or 3 channels, but got {channels}")
    picture = _image_reader(data).open_image(data, size=size, channels=channels, voi=voi).image
    left, top, width, height = _box(picture.size, size)
    small = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0))
    if channels == 1:
        return _laid(small, left, top, size)
    return np.stack([_laid(small[:, :, channel], left, top, size) for channel in range(channels)])


def letterboxed_mask(mask: bytes, image: bytes, size: int) -> np.ndarray:
    """Decode a mask to uint8 `(size, size)`, 0 or 255, aligned with `letterboxed(image, size)`.

    A pixel belongs to the mask if any of its colour channels is above 127. Nearest neighbours, no antialiasing.

    Raises:
        UnreadableImageError: either file cannot be read, or the mask is dark everywhere without being black.
    """
    if dicom.recognises(mask):
        raise UnreadableImageError("is a DICOM file, but a mask must be PNG or JPEG")
    left, top, width, height = _box(_image_reader(image).extent(image), size)
    inside = Image.fromarray(_image_reader(mask).open_mask(mask))
    return _laid(np.asarray(inside.resize((width, height), Image.Resampling.NEAREST)), left, top, size)


def _image_reader(data: bytes) -> ModuleType:
    """Return the reader of an image.

    Raises:
        UnreadableImageError: it is a volume.
    """
    reader = readers.find(data)
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
