"""Locations on disk: the checkout, lungtune's home, studies, cache, and folders of a user's own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from lungtune.errors import SpaceError

PACKAGE = Path(__file__).resolve().parents[1]
"""The installed package."""


def _is_checkout(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "src" / "lungtune" / "core").is_dir()


ROOT = PACKAGE.parents[1] if _is_checkout(PACKAGE.parents[1]) else None
"""The checkout: holds ``search_spaces/``, ``trainables/`` and, by default, ``studies/``. None in an installed wheel."""

SPACES = (PACKAGE / "search_spaces").resolve()
"""The shipped spaces: ``search_spaces/`` of the checkout, which the package links to, or of the wheel."""

OWN = ("trainables", "tasks", "search_spaces")
"""Subfolders of a user's own folders (:func:`own_folders`)."""


def expanded(path: str | Path) -> Path:
    """Return a path, as a user wrote it, with a leading ``~`` or ``~user`` replaced by that home folder.

    Raises:
        SpaceError: there is no such home folder, or the path holds a NUL character.
    """
    if "\0" in str(path):
        raise SpaceError(f"a path must not hold NUL characters, but got {str(path)!r}.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SpaceError(f"there is no home folder for '{path}'; write the path out.") from error


def home() -> Path:
    """Return the folder that holds ``studies/`` and ``mlflow/state/``.

    ``LUNGTUNE_HOME``, else the checkout if lungtune runs from one, else the working folder.
    """
    return expanded(os.environ.get("LUNGTUNE_HOME") or ROOT or Path.cwd()).resolve()


def cache() -> Path:
    """Return the folder of what can be rebuilt: pixels, phantoms (``LUNGTUNE_CACHE``, default: the user's cache)."""
    return expanded(os.environ.get("LUNGTUNE_CACHE") or platformdirs.user_cache_dir("lungtune")).resolve()


def studies() -> Path:
    """Return the folder of all studies."""
    return home() / "studies"


def own_folders() -> list[Path]:
    """Return the folders that hold a user's own ``trainables/``, ``tasks/`` and ``search_spaces/``.

    Those of ``LUNGTUNE_PATH`` (separated as in ``PATH``), then lungtune's home and the working folder where they hold
    one of these and are not a checkout. Their code is run: a working folder of another user's counts only where
    ``LUNGTUNE_PATH`` or ``LUNGTUNE_HOME`` names it.

    Raises:
        SpaceError: ``LUNGTUNE_PATH`` names something that is no folder, or a folder that holds none of these.
    """
    words = [each for each in os.environ.get("LUNGTUNE_PATH", "").split(os.pathsep) if each]
    named = [expanded(each).resolve() for each in words]
    for word, folder in zip(words, named, strict=True):
        if not folder.is_dir():
            raise SpaceError(f"LUNGTUNE_PATH must name folders, but '{word}' is none. Make it, or mend LUNGTUNE_PATH.")
        if not _holds_own(folder):
            above = f" Did you mean '{folder.parent}'?" if folder.name in OWN else ""
            raise SpaceError(f"folders of LUNGTUNE_PATH must hold {', '.join(OWN)}, but '{word}' holds none.{above}")
    here = [Path.cwd()] if _is_mine(Path.cwd()) else []
    homes = [home()] if os.environ.get("LUNGTUNE_HOME") or _is_mine(home()) else []
    implied = [each for each in (*homes, *here) if _holds_own(each) and not _is_checkout(each) and each != PACKAGE]
    return list(dict.fromkeys([*named, *implied]))


def _is_mine(folder: Path) -> bool:
    """True if a folder belongs to this process's user, or to root, or if that is root (as in many containers)."""
    return not hasattr(os, "getuid") or os.getuid() == 0 or folder.stat().st_uid in (0, os.getuid())


def _holds_own(folder: Path) -> bool:
    return any((folder / each).is_dir() for each in OWN)


def name_own_folders(folders: Sequence[str]) -> None:
    """Set ``LUNGTUNE_PATH`` of this process, and so of its children, to these folders."""
    os.environ["LUNGTUNE_PATH"] = os.pathsep.join(folders)
