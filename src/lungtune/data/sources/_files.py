"""Discovery of image files, shared by all folder-like sources."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from lungtune.data import readers
from lungtune.data.readers import dicom
from lungtune.errors import DataError, did_you_mean

SUFFIXES = tuple(sorted(readers.suffixes()))
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""Names of official parts as folders and tables spell them (lower case) -> the name used here."""

_KERMANY = re.compile(r"^(normal\d*-im-\d+|im-\d+|person\d+|(?:normal|bacteria|virus)-\d+)", re.IGNORECASE)


def named(items: list[str], most: int = 10) -> str:
    """Return up to `most` items joined by commas, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def require_folder(path: Path | None, source: str, *, option: bool = False) -> Path:
    """Return `path` as an absolute folder; `source` is the name of a source or, with `option`, of an option.

    Raises:
        DataError: no path, no such folder (naming a similar sibling), or a file.
    """
    noun = f"The {'option' if option else 'source'} '{source}'"
    if path is None:
        raise DataError(f"{noun} needs a folder: write {source}:FOLDER.")
    path = path.absolute()
    if path.is_dir():
        return path
    if path.exists():
        raise DataError(f"{noun} needs a folder, but {path} is a file.")
    raise DataError(f"The folder {path} does not exist.{_similar(path)}")


def require_file(path: Path | None, source: str, example: str) -> Path:
    """Return `path` as an absolute file.

    Raises:
        DataError: no path, no such file (naming a similar sibling), or a folder.
    """
    if path is None:
        raise DataError(f"The source '{source}' needs a file: write {source}:{example}.")
    path = path.absolute()
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(f"The source '{source}' needs a file, but {path} is a folder.")
    raise DataError(f"The file {path} does not exist.{_similar(path)}")


def _similar(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" Nor does its parent {parent}." if parent != path else ""
    siblings = [entry.name for entry in parent.iterdir() if not junk(entry.name)]
    hint = did_you_mean(path.name, siblings)
    return hint if hint.startswith(" Did") else ""


def junk(name: str) -> bool:
    """True if a file or folder is left by an operating system or an archive, not data."""
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def folders(path: Path) -> list[Path]:
    """Return the sub-folders of `path`, sorted by name, junk left out."""
    return sorted((p for p in path.iterdir() if not junk(p.name) and p.is_dir()), key=lambda p: p.name)


def kermany_patient(name: str) -> str | None:
    """Return the patient in a file name of Kermany et al., lower case: `person12`, `im-0115`, `bacteria-1008087`."""
    match = _KERMANY.match(name)
    return match.group(1).lower() if match else None


def header_patient(path: Path) -> str | None:
    """Return the patient id in the header of a DICOM file, with its suffix or none; None for all other files."""
    return dicom.patient_id(str(path)) if path.suffix.lower() in {*dicom.SUFFIXES, ""} else None


def images(path: Path, *, below: bool = True) -> list[Path]:
    """Return image and volume files in `path` (and below), sorted, junk left out. Links are followed, loops are not."""
    paths: list[Path] = []
    seen: set[str] = set()
    for root, below_root, files in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        below_root[:] = [] if real in seen or not below else sorted(d for d in below_root if not junk(d))
        if real in seen:
            continue
        seen.add(real)
        paths += [Path(root, f) for f in files if not junk(f) and f.lower().endswith(SUFFIXES)]
    return sorted(paths)


def nested(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """Return the first folder that fits, at `path` or up to three levels below: archives and users nest."""
    level = [path]
    for _ in range(4):
        for folder in level:
            if fits(folder):
                return folder
        level = [inner for folder in level for inner in folders(folder)]
    return None


def unwrap(path: Path) -> Path:
    """Step down while a folder holds nothing but one folder, as archives leave behind."""
    while not images(path, below=False) and len(inner := folders(path)) == 1 and folders(inner[0]):
        path = inner[0]
    return path
