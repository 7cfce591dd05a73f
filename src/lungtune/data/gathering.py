"""Pixel store of the images that a scan decodes, so that a search decodes them once.

Its rows are copied into the stores of the parts (`store`), after which `discard` removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from lungtune.core import paths as places
from lungtune.core.io import log_stderr
from lungtune.data.scan import Keep
from lungtune.data.store import layout_of_images
from lungtune.errors import DataError

NAME = "scan"
_RESERVE = 1 << 30
"""Bytes that stay free on the disk beside the copies in the stores of the parts."""


@contextmanager
def gathering(size: int | None) -> Iterator[Keep | None]:
    """Yield a function that keeps digests and letterboxes; they become a pixel store at the end of the block.

    Nothing is kept where the disk is too small for it: those images are decoded again.

    Args:
        size: side of the letterboxes in pixels; None to keep none, the function is None then.
    """
    if size is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="gathering-", dir=_folder(), ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "rows"
        with file.open("wb") as stream:
            rows = _Rows(stream)
            yield rows.keep
        if rows.digests:
            try:
                layout_of_images(NAME, size).store(rows.digests).open(lambda draft: os.replace(file, draft))
            except DataError as error:
                log_stderr(f"Images will be decoded again: {error}")


def discard(size: int) -> None:
    """Remove what was gathered in this size."""
    for file in (places.cache() / "pixels").glob(f"{NAME}-{size}-*"):
        if file.suffix in (".u8", ".json", ".lock"):
            file.unlink(missing_ok=True)


def _folder() -> Path:
    folder = places.cache() / "pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


class _Rows:
    """Rows written one after the other; of equal digests, the first.

    Attributes:
        digests: of the rows; empty once the disk is too small.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.digests: list[str] = []
        self._stream, self._known, self._stopped = stream, set[str](), False

    def keep(self, digest: str, row: np.ndarray) -> None:
        if self._stopped or digest in self._known:
            return
        try:
            if len(self.digests) % 256 == 0 and shutil.disk_usage(self._stream.name).free < self._need(row.nbytes):
                raise OSError("the disk is too small")
            self._stream.write(np.ascontiguousarray(row).data)
        except OSError:
            self._stopped = True
            self.digests.clear()
            self._stream.truncate(0)
            return
        self._known.add(digest)
        self.digests.append(digest)

    def _need(self, size: int) -> int:
        return _RESERVE + (len(self.digests) + 512) * size
