"""Trained weights in their place: whole, or as they were before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def put(folder: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a draft, then put it in the place of ``weights/`` in ``folder``."""
    draft, place = folder / ".weights.draft", folder / "weights"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    write(draft)
    if place.exists():
        shutil.rmtree(place)
    os.replace(draft, place)
