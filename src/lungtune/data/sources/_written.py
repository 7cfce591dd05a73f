"""Images that a source writes into the cache once."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from lungtune.core import cache, io, paths


def written(kind: str, key: str, complete: Callable[[Path], bool], write: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, written first, under a lock, if it is absent or damaged.

    Args:
        kind: name of its subfolder of the cache.
        key: its name, derived from its content.
        complete: returns True if a folder is complete.
        write: fills an empty folder, which is then renamed atomically.

    Raises:
        DataError: the cache cannot be written.
    """
    above = paths.cache() / kind
    folder = above / key
    if complete(folder):
        return folder
    cache.ensure_writable(above)
    with io.waiting(above / f"{key}.lock", f"writes {folder}"):
        if not complete(folder):
            for left in above.glob(f"{key}.*.part"):  # of a process that died
                shutil.rmtree(left, ignore_errors=True)
            part = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".part", dir=above))
            try:
                write(part)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(part, folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    return folder
