"""The cache folder must take files; where it does not, the message names the variable that moves it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lungtune.errors import DataError

HINT = "LUNGTUNE_CACHE moves the cache; it must name a folder that can be written."


def ready(folder: Path) -> None:
    """Make a folder of the cache and make sure that files can be written there.

    Raises:
        DataError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"The cache {folder} must be a folder that can be written, but: {error.strerror}. {HINT}"
        ) from error
