"""Detection of JPEG streams that were cut and closed with an end marker, which decoders accept.

A decoder fills what is missing of a baseline stream with middle grey, and shows a progressive one without its last
scans.
"""

from __future__ import annotations

import io
import re
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN, _BARE = 0xDA, (0x01, *range(0xD0, 0xD9))
_FILLER = bytes(range(1, 251)) * 8


def is_cut(data: bytes, decoded: Image.Image) -> bool:
    """True if a stream lacks a part of its picture.

    Args:
        data: a whole JPEG stream.
        decoded: its picture at full size, not turned.
    """
    if decoded.info.get("progressive"):
        return _lacks_scans(data) or _reads_on(data, decoded.mode, decoded.size)  # its last scan refines all of it
    return _ends_grey(decoded) and _reads_on(data, "L", (1, 1))


def _ends_grey(decoded: Image.Image) -> bool:
    """True if the right half of the last 8 rows is middle grey."""
    width, height = decoded.size
    corner = decoded.getpixel((width - 1, height - 1))  # of few whole pictures is it grey
    if isinstance(corner, int) and not 126 <= corner <= 130:
        return False
    end = np.asarray(decoded.crop((width // 2, max(0, height - 8), width, height)))
    return bool(end.min() >= 126 and end.max() <= 130)


def _reads_on(data: bytes, mode: str, size: tuple[int, int]) -> bool:
    """True if bytes inserted before the end marker change the picture; in a whole stream a decoder skips them.

    Args:
        data: the stream.
        mode: Pillow's mode in which both are decoded, where the stream has it.
        size: as much of the full size as is decoded, in pixels.
    """
    end = data.rfind(_END)
    one, other = (_decoded(each, mode, size) for each in (data, data[:end] + _FILLER + data[end:]))
    return not np.array_equal(one, other)


def _decoded(data: bytes, mode: str, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    image.draft(mode, size)
    return np.asarray(image)


def _lacks_scans(data: bytes) -> bool:
    """True if the scans of a progressive stream do not give all bits of the first component's coefficients."""
    bits: dict[int, int] = {}  # coefficient -> lowest bit that a scan gave
    first, position = None, 2
    while match := _MARKER.search(data, position):
        kind, position = data[match.end() - 1], match.end()
        if kind in _BARE:
            continue
        if data[match.start() : match.end()] == _END or position + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, position)
        if kind == _SCAN:
            count = data[position + 2]
            components = data[position + 3 : position + 3 + 2 * count : 2]
            low, high, shift = data[position + 3 + 2 * count : position + 6 + 2 * count]
            first = components[0] if first is None else first
            if first in components:
                bits |= dict.fromkeys(range(low, high + 1), shift & 15)
        position += length
    return any(bits.get(coefficient) != 0 for coefficient in range(64))
