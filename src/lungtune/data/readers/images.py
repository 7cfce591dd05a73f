"""Image bytes to pixels and facts. Everything that opens an image goes through here.

Read are PNG and JPEG in any mode, and DICOM (`dicom`). All become 8-bit gray:

- 16-bit (and wider) gray is scaled linearly from its 0.5th to its 99.5th percentile. Chest X-rays in 16-bit files
  use 10 to 16 of the bits, so the full range would leave many of them black, and a few burned-in marker pixels at
  65535 would do the same to a min-max scaling.
- Transparent pixels are laid over black.
- The EXIF orientation is applied.

A digest names an image's bytes, and the way they are read where there are two: it is the SHA-1 of the file, or of
`voi:` and the file for a DICOM image whose VOI window is applied. So what is cached by digest never mixes the two.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from lungtune.data.readers import dicom
from lungtune.data.readers.gray import MAX_PIXELS, UnreadableImageError, short, to_8_bit

Image.preinit()  # registers the formats; not left to the first of several threads

FORMATS = ("PNG", "JPEG")
DETAIL = 32
"""Side in pixels of the detail thumbnail."""

_DETAIL_BLUR = 3.0
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
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises on damaged files, as found in its plugins."""


@dataclass(frozen=True)
class Facts:
    """What one look at an image tells.

    Attributes:
        sha1: the digest.
        pixels: sha1 of width, height and decoded gray values: equal for the same picture in another file format.
        width: in pixels.
        height: in pixels.
        mode: Pillow's mode in the file: L, RGB, I;16, ...; for DICOM photometry, bits and view position.
        type: PNG, JPEG or DICOM, by content.
        phash: 64-bit perceptual hash of the low frequencies.
        detail: `DETAIL * DETAIL` int8 values, the picture without its low frequencies at unit norm times 512.
    """

    sha1: str
    pixels: str
    width: int
    height: int
    mode: str
    type: str
    phash: int
    detail: bytes


@contextmanager
def decoders() -> Iterator[ThreadPoolExecutor]:
    """Give a pool of one thread per usable core. Pillow decodes without the interpreter lock, so threads suffice.

    Warnings of the libraries are off meanwhile: what matters of them is an error here.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with warnings.catch_warnings():  # here and not in the threads: warning filters belong to the whole process
        warnings.simplefilter("ignore", UserWarning)  # pydicom's, on odd but readable headers
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(max(1, cores)) as pool:
            yield pool


def facts(path: str, *, voi: bool = False) -> Facts:
    """Read and decode one image.

    Args:
        path: of the file.
        voi: apply the VOI window of DICOM images.

    Raises:
        UnreadableImageError: see `letterboxed`.
    """
    data = read(path)
    if dicom.is_dicom(data):
        values, mode = dicom.decode(data, voi=voi)
        gray, kind = Image.fromarray(values), "DICOM"
    else:
        image = _open(data)
        mode, kind = image.mode, "JPEG" if image.format == "MPO" else str(image.format)
        gray = _gray(image, None)
    pixels = hashlib.sha1(f"{gray.width}x{gray.height}:".encode() + gray.tobytes(), usedforsecurity=False).hexdigest()
    return Facts(digest(data, voi=voi), pixels, gray.width, gray.height, mode, kind, _phash(gray), _detail(gray))


def read(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        UnreadableImageError: the file does not exist, may not be read, or is empty.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UnreadableImageError("does not exist") from None
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise UnreadableImageError("is empty (0 bytes)")
    return data


def sha1(data: bytes) -> str:
    """Return the hex SHA-1 of `data`."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def digest(data: bytes, *, voi: bool = False) -> str:
    """Return what names an image: the SHA-1 of its bytes, of `voi:` and its bytes for DICOM read through its VOI."""
    return sha1(b"voi:" + data if voi and dicom.is_dicom(data) else data)


def letterboxed(data: bytes, size: int, *, voi: bool = False) -> np.ndarray:
    """Decode an image to uint8 `(size, size)`: aspect ratio kept, centred, padded with black, antialiased.

    Raises:
        UnreadableImageError: neither PNG, JPEG nor DICOM, too large, truncated or damaged; or see `dicom.decode`.
    """
    gray = Image.fromarray(dicom.decode(data, voi=voi)[0]) if dicom.is_dicom(data) else _gray(_open(data), size)
    left, top, width, height = _box(gray.size, size)
    small = gray.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _laid(np.asarray(small), left, top, size)


def letterboxed_mask(mask: bytes, image: bytes, size: int) -> np.ndarray:
    """Decode a mask to uint8 `(size, size)`, 0 or 255, laid exactly over `letterboxed(image, size)`.

    A pixel belongs to the mask if any of its colour channels is above 127. Nearest neighbours, no antialiasing.

    Raises:
        UnreadableImageError: either file cannot be read, or the mask is dark everywhere without being black.
    """
    if dicom.is_dicom(mask):
        raise UnreadableImageError("is a DICOM file, but a mask must be PNG or JPEG")
    left, top, width, height = _box(_extent(image), size)
    inside = Image.fromarray(_inside(_open(mask)))
    return _laid(np.asarray(inside.resize((width, height), Image.Resampling.NEAREST)), left, top, size)


def _box(extent: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a picture in its letterbox."""
    scale = size / max(extent)
    width, height = (max(1, round(side * scale)) for side in extent)
    return (size - width) // 2, (size - height) // 2, width, height


def _laid(small: np.ndarray, left: int, top: int, size: int) -> np.ndarray:
    square = np.zeros((size, size), np.uint8)
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def _extent(data: bytes) -> tuple[int, int]:
    """Return width and height of the upright image, from its header."""
    if dicom.is_dicom(data):
        return dicom.size(data)
    image = _open(data)
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def _inside(image: Image.Image) -> np.ndarray:
    """Return uint8 `(H, W)`, 255 where a mask file says so, else 0."""
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        gray = image.mode.startswith(("L", "I", "F"))
        bands = [np.asarray(band) for band in (image if gray else image.convert("RGB")).split()]
        values = bands[0] if gray else functools.reduce(np.maximum, bands)  # what follows in gray is transparency
    except _UNREADABLE as error:
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
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise UnreadableImageError("is neither PNG nor JPEG nor DICOM") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels") from None
    except _UNREADABLE as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels")
    return image


def _gray(image: Image.Image, size: int | None) -> Image.Image:
    """Decode to mode L. With `size`, a JPEG may be decoded at a fraction that is at least twice that long.

    Raises:
        UnreadableImageError: the pixels are truncated or damaged.
    """
    try:
        if image.format in ("JPEG", "MPO"):
            full = max(image.size)
            want = image.size if size is None else tuple(max(1, 2 * size * side // full) for side in image.size)
            image.draft("L", want)  # type: ignore[arg-type]
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return Image.fromarray(to_8_bit(np.asarray(image)))
        if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
            over = image.convert("RGBA")
            black = Image.new("RGBA", over.size, (0, 0, 0, 255))
            return Image.alpha_composite(black, over).convert("L")
        return image if image.mode == "L" else image.convert("L")
    except _UNREADABLE as error:
        raise UnreadableImageError(f"is damaged: {short(error)}") from error


def _cosines(n: int, k: int) -> np.ndarray:
    """Return the first `k` rows of the DCT-II matrix of length `n`, `(k, n)`."""
    return np.cos(np.pi / n * np.outer(np.arange(k), np.arange(n) + 0.5))


_DCT = _cosines(32, 8)


def _phash(gray: Image.Image) -> int:
    """Return the usual 64-bit pHash: signs of the 8x8 lowest cosine coefficients about their median."""
    small = np.asarray(gray.resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    low = (_DCT @ small @ _DCT.T).ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def _detail(gray: Image.Image) -> bytes:
    """Return the high-passed thumbnail; its dot product tells copies from look-alikes (see `duplicates`)."""
    small = gray.resize((DETAIL, DETAIL), Image.Resampling.BOX)
    blurred = small.filter(ImageFilter.GaussianBlur(_DETAIL_BLUR))
    high = np.asarray(small, np.float32) - np.asarray(blurred, np.float32)
    limit = 3 * high.std()
    high = np.clip(high, -limit, limit)
    high -= high.mean()
    norm = float(np.linalg.norm(high))
    unit = high / norm if norm > 1e-3 else np.zeros_like(high)
    return np.clip(np.rint(unit * 512), -127, 127).astype(np.int8).tobytes()
