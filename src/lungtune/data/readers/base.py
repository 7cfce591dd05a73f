"""Results, errors and size limits shared by all readers."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485
"""Above this Pillow warns of a decompression bomb (a quarter GiB of RGB); X-ray detectors have at most 20 million."""


MAX_VOXELS = 1 << 30
"""Maximum number of voxels of one channel: four times a CT of 512 x 512 x 1024."""


class UnreadableImageError(Exception):
    """An image or volume cannot be decoded. The text is a short reason; it becomes part of a `DataError`."""


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        image: Pillow's, of mode L or RGB, upright.
        mode: Pillow's mode in the file: L, RGB, I;16, ...; for DICOM photometry, bits and view position.
        type: PNG, JPEG or DICOM, by content.
        oddity: a phrase on what the reader corrected or left out; empty without any.
        rules: the first version of the decoding rules that gives these pixels; see `images.digest`.
    """

    image: Image.Image
    mode: str
    type: str
    oddity: str = ""
    rules: int = 1


class Voxels(NamedTuple):
    """A decoded volume.

    Attributes:
        values: `(C, D, H, W)` of the file's real type, finite.
        mode: the type of the values, such as `int16`.
        type: of the file, such as NPY.
    """

    values: np.ndarray
    mode: str
    type: str


@dataclass(frozen=True)
class Facts:
    """Properties of a decoded image or volume.

    Attributes:
        sha1: the digest.
        pixels: sha1 of the extent and the decoded 8-bit values: equal for the same picture in another file format.
        width: in pixels.
        height: in pixels.
        mode: see `Picture` and `Voxels`.
        type: PNG, JPEG, DICOM or NPY, by content.
        fingerprint: a small picture without borders (`fingerprint.fingerprint`); of a volume its middle slice.
        kind: `image` or `volume`.
        depth: slices of a volume; 0 for an image.
        channels: of a volume; 1 for an image, which is read with any requested number.
        oddity: see `Picture`.
        mean: of the 8-bit values, as the next three at the size of `images.thumbnail`; of a volume's middle slice.
        spread: their standard deviation.
        black: share of pixels at 0.
        white: share of pixels at 255.
        preview: `PREVIEW * PREVIEW` uint8 values, the picture without regard to its aspect ratio.
    """

    sha1: str
    pixels: str
    width: int
    height: int
    mode: str
    type: str
    fingerprint: bytes
    kind: str = "image"
    depth: int = 0
    channels: int = 1
    oddity: str = ""
    mean: float = 0.0
    spread: float = 0.0
    black: float = 0.0
    white: float = 0.0
    preview: bytes = b""


def read(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        UnreadableImageError: the file does not exist, may not be read, or is empty.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        raise UnreadableImageError("does not exist") from None
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise UnreadableImageError("is empty (0 bytes)")
    return data


def stamp(path: str) -> tuple[int, int] | None:
    """Return size and modification time (ns) of a file, by which what is known of it is cached; None if it is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def sha1(*parts: bytes | np.ndarray) -> str:
    """Return the hex SHA-1 of bytes, one after the other."""
    state = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        state.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).data)
    return state.hexdigest()


def limits(basis: np.ndarray) -> tuple[float, float]:
    """Return the 0.5th and 99.5th percentile; minimum and maximum where these are equal."""
    low, high = np.percentile(basis, (0.5, 99.5))
    if not high > low:
        low, high = basis.min(), basis.max()
    return float(low), float(high)


def between(wide: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale linearly from `low < high` to 0..255, uint8, clipping values outside."""
    return np.clip((wide.astype(np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)


def short(error: Exception) -> str:
    """Return the first 120 characters of an exception's message."""
    return (str(error) or type(error).__name__).splitlines()[0][:120]
