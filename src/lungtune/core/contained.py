"""Files that a folder from someone else names: they must lie inside it."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


def relative(name: Any) -> str:
    """Return a path that is relative and does not lead upwards.

    Raises:
        ValueError: ``name`` is another path, or no text.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"must be a path inside the folder, but is {name!r}")
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or ".." in PureWindowsPath(name).parts:
        raise ValueError(f"must be a path inside the folder, but is '{name}'")
    return name


def link_out(folder: Path) -> Path | None:
    """Return the first symbolic link below a folder that leads out of it, or to nothing; None where there is none."""
    home = folder.resolve()
    for place, folders, files in os.walk(home):
        for name in sorted([*folders, *files]):
            path = Path(place, name)
            if path.is_symlink() and not _inside(path, home):
                return path
    return None


def _inside(link: Path, home: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(home)
    except (OSError, RuntimeError):  # it leads to nothing, or in a circle
        return False
