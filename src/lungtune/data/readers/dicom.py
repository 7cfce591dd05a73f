"""Conversion of DICOM to 8-bit gray. Accepts one frame of MONOCHROME1 or MONOCHROME2; refuses all else by name.

- Rescale slope and intercept, or a modality LUT, are applied; bits above BitsStored are ignored.
- More than 8 stored bits are scaled from the 0.5th to the 99.5th percentile, as 16-bit PNGs are. At most 8 stored
  bits keep their full range, as 8-bit PNGs do. Pixels of the padding value do not count and become black.
- With `voi`, the first VOI window or LUT decides instead, in files that have one. It is not the default: a window is
  one viewer's choice. Files of one collection may have none, several, or one for another organ, and a model may then
  learn the window's origin.
- MONOCHROME1 is inverted, so that air is dark. The tag is trusted: a wrong one can't be detected from one file.

The codecs: pydicom decodes what is not compressed, deflate and RLE; Pillow 8-bit baseline JPEG; GDCM (Apache-2.0) all
other JPEG, JPEG-LS and JPEG 2000. Through pydicom it refuses 12-bit lossy and progressive JPEG, so those go to it
directly.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.data.readers.base import MAX_PIXELS, Picture, UnreadableImageError, between, short, to_8_bit

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

KIND = "image"
SUFFIXES = frozenset({".dcm", ".dicom"})
MODES = ("MONOCHROME1", "MONOCHROME2")
TAGS = (
    "PatientID",
    "PatientSex",
    "PatientAge",
    "InstitutionName",
    "Manufacturer",
    "ManufacturerModelName",
    "ViewPosition",
)
"""What `tags` reads."""

_BASELINE = "1.2.840.10008.1.2.4.50"
_GDCM_ONLY = ("1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55")


def recognises(data: bytes) -> bool:
    """True if a file's first bytes are those of a DICOM file. A PNG or JPEG never is."""
    return data[128:132] == b"DICM" and not data.startswith((b"\x89PNG", b"\xff\xd8"))


def patient_id(path: str) -> str | None:
    """Return the PatientID in a file's header; None without one, or when it is no DICOM file. Reads no pixels."""
    return tags(path).get("PatientID")


def tags(path: str) -> dict[str, str]:
    """Return the values of `TAGS` in a file's header that are not empty. Reads no pixels; empty if no DICOM file."""
    try:
        stat = os.stat(path)
    except OSError:
        return {}
    return _tags(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _tags(path: str, size: int, mtime: int) -> dict[str, str]:
    try:
        with open(path, "rb") as stream, warnings.catch_warnings():
            if not recognises(stream.read(132)):
                return {}
            import pydicom

            stream.seek(0)
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
            values = {tag: str(header.get(tag) or "").strip() for tag in TAGS}
            return {tag: value for tag, value in values.items() if value}
    except Exception:  # damaged: opening the image reports how
        return {}


def extent(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels.

    Raises:
        UnreadableImageError: see `decode`.
    """
    header = _header(data)
    return int(header.Columns), int(header.Rows)


def open_image(data: bytes, *, size: int | None = None, channels: int = 1, voi: bool = False) -> Picture:
    """Decode a DICOM file to mode L or, with 3 channels, RGB; `size` is ignored. Errors as in `decode`."""
    from PIL import Image

    values, mode = decode(data, voi=voi)
    gray = Image.fromarray(values)
    return Picture(gray if channels == 1 else gray.convert("RGB"), mode, "DICOM")


def decode(data: bytes, *, voi: bool = False) -> tuple[np.ndarray, str]:
    """Decode a DICOM file.

    Args:
        data: the file's bytes.
        voi: apply the first VOI window or LUT where there is one.

    Returns:
        uint8 `(H, W)`, air dark; and the mode in words, such as `MONOCHROME1, 12 bit, AP`: the view position
        may reveal the class.

    Raises:
        UnreadableImageError: no pixel data, more than one frame, colour, a compression without a codec, too
            large, truncated or damaged.
    """
    header = _header(data)
    try:
        gray = _gray(header, _stored(header), voi)
    except UnreadableImageError:
        raise
    except NotImplementedError as error:
        raise UnreadableImageError(f"is compressed as {_syntax(header).name}, which no codec here decodes") from error
    except Exception as error:  # pydicom and its codecs raise anything on damaged files
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    view = str(header.get("ViewPosition") or "").strip()
    return gray, ", ".join(filter(None, (header.PhotometricInterpretation, f"{header.BitsStored} bit", view)))


def _header(data: bytes) -> Dataset:
    """Parse a file, and make sure that it holds one gray picture.

    Raises:
        UnreadableImageError: it does not; see `decode`.
    """
    import pydicom

    try:
        header = pydicom.dcmread(io.BytesIO(data))
        has = "PixelData" in header and bool(header.PixelData)
        kind, frames = str(header.get("PhotometricInterpretation") or "none"), int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        samples, bits = int(header.get("SamplesPerPixel") or 1), int(header.get("BitsStored") or 0)
    except Exception as error:  # pydicom raises anything on damaged files
        raise UnreadableImageError(f"is damaged: {short(error)}") from error
    if not len(header):  # pydicom discards what it has read when a file ends inside an element
        raise UnreadableImageError("is truncated: it ends inside its header or its compressed pixels")
    if not has:
        raise UnreadableImageError(f"is a DICOM file without pixels ({header.get('Modality') or 'no modality'})")
    if frames > 1:
        raise UnreadableImageError(f"has {frames} frames, but an X-ray must have one")
    if kind not in MODES or samples != 1:
        raise UnreadableImageError(f"is in colour ({kind}), but a DICOM X-ray must be {' or '.join(MODES)}")
    if rows < 1 or columns < 1 or bits < 1:
        raise UnreadableImageError(f"is damaged: {columns} x {rows} pixels of {bits} bits")
    if rows * columns > MAX_PIXELS:
        raise UnreadableImageError(f"has more than {MAX_PIXELS:,} pixels")
    return header


def _syntax(header: Dataset) -> UID:
    from pydicom.uid import ImplicitVRLittleEndian

    return header.file_meta.get("TransferSyntaxUID") or ImplicitVRLittleEndian


def _stored(header: Dataset) -> np.ndarray:
    """Return the stored values `(H, W)` of any compression.

    Raises:
        UnreadableImageError: truncated.
        NotImplementedError: no codec.
    """
    from pydicom.pixels import get_decoder

    syntax = _syntax(header)
    if not syntax.is_compressed or syntax.is_deflated:
        need, got = header.Rows * header.Columns * header.BitsAllocated // 8, len(header.PixelData)
        if got < need:
            raise UnreadableImageError(f"is truncated: it has {got:,} of {need:,} bytes of pixels")
    elif _directly(header, syntax):
        return _gdcm_frame(header, syntax)
    else:  # named, so that pixels do not depend on the packages installed; Pillow releases the interpreter lock
        plugin = "pillow" if syntax == _BASELINE else "gdcm"
        if plugin in get_decoder(syntax).available_plugins:
            header.pixel_array_options(decoding_plugin=plugin)
    return header.pixel_array


def _directly(header: Dataset, syntax: UID) -> bool:
    return syntax in _GDCM_ONLY and (header.BitsStored > 8 or syntax != _GDCM_ONLY[0])


def _gdcm_frame(header: Dataset, syntax: UID) -> np.ndarray:
    """Decode the one frame with GDCM.

    Raises:
        UnreadableImageError: GDCM cannot.
    """
    import gdcm
    from pydicom.encaps import generate_frames

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(next(generate_frames(header.PixelData, number_of_frames=1)))
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((header.Columns, header.Rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(header.PhotometricInterpretation)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str.__str__(syntax))))
    bits, signed = header.BitsStored, int(header.get("PixelRepresentation") or 0)
    image.SetPixelFormat(gdcm.PixelFormat(1, header.BitsAllocated, bits, bits - 1, signed))
    buffer = image.GetBuffer()
    if buffer is None:
        raise UnreadableImageError("is damaged: its JPEG stream cannot be decoded")
    kind = np.dtype(f"{'i' if signed else 'u'}{header.BitsAllocated // 8}")
    return np.frombuffer(buffer.encode("utf-8", "surrogateescape"), kind).reshape(header.Rows, header.Columns)


def _gray(header: Dataset, stored: np.ndarray, voi: bool) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    padding = _padding(header, stored)
    values, bits = apply_modality_lut(stored, header), int(header.BitsStored)
    gray = _viewed(header, values) if voi else None
    if gray is None and bits <= 8 and "ModalityLUTSequence" not in header:
        low = -(1 << bits - 1) if header.get("PixelRepresentation") else 0
        ends = apply_modality_lut(np.array([low, low + (1 << bits) - 1]), header)
        gray = between(values, float(ends.min()), float(ends.max())) if ends.min() < ends.max() else None
    if gray is None:
        gray = to_8_bit(values, ~padding)
    if header.PhotometricInterpretation == "MONOCHROME1":
        gray = 255 - gray
    gray[padding] = 0
    return gray


def _padding(header: Dataset, stored: np.ndarray) -> np.ndarray:
    """Return the mask of padding pixels, bool `(H, W)`."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, bool)
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    return (stored >= low) & (stored <= high)


def _viewed(header: Dataset, values: np.ndarray) -> np.ndarray | None:
    """Apply the first VOI LUT or window; None when there is none."""
    from pydicom.pixels import apply_voi

    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return between(apply_voi(values.astype(np.int64), header, index=0), 0, (1 << bits) - 1)
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None or width < 1:
        return None
    shape = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if shape == "SIGMOID":
        return between(1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -50, 50))), 0, 1)
    if shape == "LINEAR" and width > 1:
        center, width = center - 0.5, width - 1
    return between(values, center - width / 2, center + width / 2)


def _first(value: Any) -> float | None:
    """Return the first of one or several numbers."""
    try:
        number = float(value if isinstance(value, (int, float, str)) else value[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if math.isfinite(number) else None
