"""Where things live on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: holds ``search_spaces/``, ``trainables/`` and, by default, ``studies/``."""


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

    Those of ``LUNGTUNE_PATH`` (separated as in ``PATH``), then lungtune's home where that is not the checkout.
    """
    named = [
        Path(each).expanduser().resolve() for each in os.environ.get("LUNGTUNE_PATH", "").split(os.pathsep) if each
    ]
    return list(dict.fromkeys([*named, *([home()] if home() != ROOT else [])]))


def name_own_folders(folders: Sequence[str]) -> None:
    """Make :func:`own_folders` return these in this process and its children, before any of their own."""
    known = [str(each) for each in own_folders()]
    os.environ["LUNGTUNE_PATH"] = os.pathsep.join(dict.fromkeys([*folders, *known]))
