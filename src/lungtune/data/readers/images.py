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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType

import numpy as np
from PIL import Image, ImageFilter, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from lungtune.core import environment
from lungtune.data import readers
from lungtune.data.readers import dicom
from lungtune.data.readers.base import Facts, UnreadableImageError, sha1
from lungtune.data.readers.mask_values import inside

Image.preinit()  # registers formats, as the imports of plugins do; not left to the first of several threads

DETAIL = 32
"""Side in pixels of the detail thumbnail."""

_DETAIL_BLUR = 3.0


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
    return Facts(digest(data, voi=voi), pixels, gray.width, gray.height, mode, kind, phash(gray), detail(gray))


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
    if dicom.recognises(mask):
        raise UnreadableImageError("is a DICOM file, but a mask must be PNG or JPEG")
    left, top, width, height = _box(_image_reader(image).extent(image), size)
    covered = Image.fromarray(inside(_image_reader(mask).open_mask(mask), values))
    return _laid(np.asarray(covered.resize((width, height), Image.Resampling.NEAREST)), left, top, size)


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


def _cosines(n: int, k: int) -> np.ndarray:
    """Return the first `k` rows of the DCT-II matrix of length `n`, `(k, n)`."""
    return np.cos(np.pi / n * np.outer(np.arange(k), np.arange(n) + 0.5))


_DCT = _cosines(32, 8)


def phash(gray: Image.Image) -> int:
    """Return the usual 64-bit pHash: signs of the 8x8 lowest cosine coefficients about their median."""
    small = np.asarray(gray.resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = (_DCT @ small @ _DCT.T).ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def detail(gray: Image.Image) -> bytes:
    """Return the high-passed thumbnail; its dot product separates copies from look-alikes (see `duplicates`)."""
    small = gray.resize((DETAIL, DETAIL), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(_DETAIL_BLUR))
    high = np.asarray(small, np.float32) - np.asarray(blurred, np.float32)
    limit = 3 * high.std()
    high = np.clip(high, -limit, limit)
    high -= high.mean()
    norm = float(np.linalg.norm(high))
    unit = high / norm if norm > 1e-3 else np.zeros_like(high)
    return np.clip(np.rint(unit * 512), -127, 127).astype(np.int8).tobytes()
