"""Discovery of image files, shared by all folder-like sources."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath

from lungtune.data import readers
from lungtune.data.readers import dicom
from lungtune.data.sources._names import SPLIT_NAMES as SPLIT_NAMES
from lungtune.data.sources._names import junk
from lungtune.errors import DataError, did_you_mean

SUFFIXES = tuple(sorted(readers.suffixes()))
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_TABLES = (".csv", ".tsv", ".xlsx", ".csv.gz")
_HEAD = 4096
_ignored: ContextVar[tuple[Path, tuple[str, ...]] | None] = ContextVar("ignored", default=None)

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
        raise DataError(f"{noun} needs a folder, but {path} is a file.{_instead(path, source)}")
    raise DataError(f"The folder {path} does not exist.{_similar(path)}")


def _instead(file: Path, source: str) -> str:
    """Return what to give instead of a file where a folder is needed, a sentence after a blank, or empty."""
    name = file.name.lower()
    if name.endswith(_TABLES):
        return f" Write {f'table:{file}' if source == 'folder' else f'{source}:{file.parent}'}."
    return " Unpack the archive, and name its folder." if name.endswith(ARCHIVES) else ""


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


@contextmanager
def ignoring(root: Path | None, globs: Sequence[str]) -> Iterator[None]:
    """Leave files and folders that match out of every listing in this block.

    Args:
        root: the folder that the globs are relative to.
        globs: see `ignored`.
    """
    token = _ignored.set((root.absolute(), tuple(globs)) if root and globs else None)
    try:
        yield
    finally:
        _ignored.reset(token)


def ignored(path: Path) -> bool:
    """True if a file or folder matches a glob of the surrounding `ignoring`."""
    chosen = _ignored.get()
    return chosen is not None and path.is_relative_to(chosen[0]) and matches(path.relative_to(chosen[0]), chosen[1])


def matches(path: PurePath, globs: Sequence[str]) -> bool:
    """True if one of the globs matches a relative path, a folder above it, or, without `/`, any name in it."""
    above = [path, *path.parents][:-1]
    return any(
        any(fnmatch.fnmatchcase(p.as_posix() if "/" in glob else p.name, glob.strip("/")) for p in above)
        for glob in globs
    )


def folders(path: Path) -> list[Path]:
    """Return the sub-folders of `path`, sorted by name, without junk and ignored ones."""
    return sorted((p for p in path.iterdir() if not junk(p.name) and p.is_dir() and not ignored(p)), key=_name)


def _name(path: Path) -> str:
    return path.name


def kermany_patient(name: str) -> str | None:
    """Return the patient in a file name of Kermany et al., lower case: `person12`, `im-0115`, `bacteria-1008087`."""
    match = _KERMANY.match(name)
    return match.group(1).lower() if match else None


def header_patient(path: Path) -> str | None:
    """Return the patient id in the header of a DICOM file, whatever its suffix; None for all other files."""
    return dicom.patient_id(str(path)) if suffix(path) in {*dicom.SUFFIXES, ""} else None


def suffix(path: PurePath) -> str:
    """Return the suffix in lower case; empty without one, also in names that are DICOM UIDs (`1.2.840.113`)."""
    end = path.suffix.lower()
    return "" if end[1:].isdigit() else end


def is_image(path: Path) -> bool:
    """True if a file can be an image or volume: by its suffix, or without one by its first bytes."""
    end = suffix(path)
    if end:
        return end in SUFFIXES
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        return False
    return any(reader.recognises(head) for reader in readers.all_readers().values())


def walk(path: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder at and below `path` with the names of its files, sorted, junk and ignored ones left out.

    Links are followed, loops are not.

    Raises:
        OSError: a folder cannot be listed.
        DataError: a name is not UTF-8.
    """
    for root, below, files in every(path):
        below[:] = sorted(d for d in below if not junk(d) and not ignored(Path(root, d)))
        names = sorted(f for f in files if not junk(f) and not ignored(Path(root, f)))
        for name in (*below, *names):
            _decodable(root, name)
        yield Path(root), names


def every(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what `os.walk` does from the top, links followed, folders left out that lie in themselves by a link.

    Raises:
        OSError: a folder cannot be listed.
    """
    above: dict[str, frozenset[str]] = {}
    for root, below, files in os.walk(path, followlinks=True, onerror=_raise):
        real, outer = os.path.realpath(root), above.pop(root, frozenset())
        if real in outer:
            below[:] = []
            continue
        yield root, below, files
        above |= {os.path.join(root, name): outer | {real} for name in below}


def _raise(error: OSError) -> None:
    raise error


def _decodable(root: str, name: str) -> None:
    """Raise DataError unless a name is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(os.path.join(root, name)).decode("utf-8", "backslashreplace")
        raise DataError(
            f"Names of files and folders must be UTF-8, but {shown} is not. Rename it, as in convmv -f latin1 -t utf8, "
            "or leave it out with ignore=GLOB."
        ) from None


def images(path: Path, *, below: bool = True) -> list[Path]:
    """Return image and volume files in `path` (and below), sorted; see `walk`, its errors included."""
    paths: list[Path] = []
    for root, files in walk(path):
        paths += [file for file in (root / name for name in files) if is_image(file)]
        if not below:
            break
    return sorted(paths)


def nested(path: Path, fits: Callable[[Path], bool]) -> Path | None:
    """Return the first folder that fits, at `path` or up to three levels below, since archives are often nested."""
    level = [path]
    for _ in range(4):
        for folder in level:
            if fits(folder):
                return folder
        level = [inner for folder in level for inner in folders(folder)]
    return None


def elsewhere(path: Path, source: str, fits: Callable[[Path], bool] | None = None) -> str:
    """Return what to do where a folder holds no data set: name the parent that does, or unpack archives.

    Returns:
        A sentence after a blank; empty where neither is known to help.
    """
    above = next((folder for folder in list(path.parents)[:3] if fits(folder)), None) if fits else None
    if above is not None:
        return f" Write {source}:{above}, which does."
    packed = [folder / name for folder, names in walk(path) for name in names if name.lower().endswith(ARCHIVES)]
    packed = [file for file in packed if not file.name.lower().endswith(_TABLES)]
    return f" Unpack the archives there first: {named([file.name for file in sorted(packed)], 3)}." if packed else ""


def unwrap(path: Path) -> Path:
    """Step down while a folder holds nothing but one folder, as archives leave behind."""
    while not images(path, below=False) and len(inner := folders(path)) == 1 and folders(inner[0]):
        path = inner[0]
    return path
