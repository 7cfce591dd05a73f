"""Readers: one module per file format, selected by a file's first bytes or its suffix.

A module `readers/<format>.py` is a reader, all but those that hold what readers share (`_SHARED`). All readers have

- `KIND`: `image` or `volume`,
- `SUFFIXES`: lower case, with the dot,
- `recognises(data) -> bool`: True if a file's bytes are of this format,
- `extent(data)`: the sides as the file is shown, from its header: width and height in pixels, or width, height and
  depth, in voxels or, where the file has a spacing, in mm.

Readers of images also have `open_image(data, *, size, channels, voi) -> base.Picture`, those of volumes
`open_volume(data) -> base.Voxels`. Those whose files may be masks have `open_mask(data)`: the file's values `(H, W)` or
`(D, H, W)`, whose meaning is in `mask_values`. All raise `base.UnreadableImageError`. Dependencies other than
numpy are imported on reading. A new format is a new file here; nothing else is edited.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from types import ModuleType

FALLBACK = "pictures"
"""Reader of files that no reader recognises; it reads them or raises."""

_SHARED = ("base", "images", "jpeg_streams", "levels", "mask_values", "volumes", "wide_colour")


@functools.cache
def all_readers() -> dict[str, ModuleType]:
    """Return all readers by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _SHARED)
    return {name: importlib.import_module(f"{__name__}.{name}") for name in names}


def suffixes() -> frozenset[str]:
    """Return the suffixes of all formats, lower case, with the dot."""
    return frozenset().union(*(reader.SUFFIXES for reader in all_readers().values()))


def find(data: bytes, path: str = "") -> ModuleType:
    """Return the reader of a file: by its bytes, else by its suffix."""
    readers = all_readers()
    name = path.lower()
    for reader in readers.values():
        if reader.recognises(data):
            return reader
    return next((reader for reader in readers.values() if name.endswith(tuple(reader.SUFFIXES))), readers[FALLBACK])
