"""Where things live on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from lungtune.errors import SpaceError

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: holds ``search_spaces/``, ``trainables/`` and, by default, ``studies/``."""

OWN = ("trainables", "tasks", "search_spaces")
"""Folders of a user's own, in those that ``LUNGTUNE_PATH`` names."""


def home() -> Path:
    """Return the folder that holds ``studies/`` and ``mlflow/state/`` (``LUNGTUNE_HOME``, default: the checkout)."""
    return Path(os.environ.get("LUNGTUNE_HOME") or ROOT).expanduser().resolve()


def cache() -> Path:
    """Return the folder of what can be rebuilt: pixels, phantoms (``LUNGTUNE_CACHE``, default: the user's cache)."""
    return Path(os.environ.get("LUNGTUNE_CACHE") or platformdirs.user_cache_dir("lungtune")).expanduser().resolve()


def studies() -> Path:
    """Return the folder of all studies."""
    return home() / "studies"


def own_folders() -> list[Path]:
    """Return the folders that hold a user's own ``trainables/``, ``tasks/`` and ``search_spaces/``.

    Those of ``LUNGTUNE_PATH`` (separated as in ``PATH``), then lungtune's home where it holds one of these and is not
    the checkout.

    Raises:
        SpaceError: ``LUNGTUNE_PATH`` names what is no folder, or one that holds none of these.
    """
    words = [each for each in os.environ.get("LUNGTUNE_PATH", "").split(os.pathsep) if each]
    named = [Path(each).expanduser().resolve() for each in words]
    for word, folder in zip(words, named, strict=True):
        if not folder.is_dir():
            raise SpaceError(f"LUNGTUNE_PATH must name folders, but '{word}' is none. Make it, or mend LUNGTUNE_PATH.")
        if not _holds_own(folder):
            above = f" Did you mean '{folder.parent}'?" if folder.name in OWN else ""
            raise SpaceError(f"folders of LUNGTUNE_PATH must hold {', '.join(OWN)}, but '{word}' holds none.{above}")
    return list(dict.fromkeys([*named, *([home()] if home() != ROOT and _holds_own(home()) else [])]))


def _holds_own(folder: Path) -> bool:
    return any((folder / each).is_dir() for each in OWN)


def name_own_folders(folders: Sequence[str]) -> None:
    """Let ``LUNGTUNE_PATH`` of this process and its children name these folders instead of what it names."""
    os.environ["LUNGTUNE_PATH"] = os.pathsep.join(folders)
