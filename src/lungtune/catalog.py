"""Names to things: model families, search spaces. Found by file name; nothing is registered by hand."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trainables
from lungtune.core import yamlfile
from lungtune.core.paths import ROOT
from lungtune.core.space import SearchSpace
from lungtune.core.spacefile import load_space
from lungtune.core.trainable import Trainable
from lungtune.errors import SpaceError, did_you_mean
from lungtune.evaluate.metrics import DIRECTIONS

SPACES = ROOT / "search_spaces"


def families() -> list[str]:
    """Return the names of all model families."""
    names = (module.name for module in pkgutil.iter_modules(trainables.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def family(name: str) -> Trainable:
    """Return a model family by name.

    Raises:
        SpaceError: there is none of that name.
    """
    if name not in families():
        raise SpaceError(f"there is no model family '{name}'.{did_you_mean(name, families())}")
    trainable: Trainable = importlib.import_module(f"trainables.{name}").TRAINABLE
    return trainable


def spaces() -> dict[str, Path]:
    """Return the files of all shipped search spaces by name."""
    return {path.stem: path for path in sorted(SPACES.glob("*.yaml"))}


def summary(name: str) -> str:
    """Return the one-line summary of a shipped space."""
    return str(yamlfile.load(spaces()[name]).get("summary", ""))


def default_profile(name_or_file: str, *, with_data: bool) -> str:
    """Return the profile of a search that names none: ``full`` with one's own data, else ``demo`` if there is one."""
    profiles = yamlfile.load(_file(name_or_file)).get("profiles", {})
    return "demo" if not with_data and isinstance(profiles, dict) and "demo" in profiles else "full"


def _file(name_or_file: str) -> Path:
    path = spaces().get(name_or_file) or Path(name_or_file).expanduser()
    if not path.is_file():
        raise SpaceError(
            f"--space must name a shipped space or a YAML file, but got '{name_or_file}'."
            f"{did_you_mean(name_or_file, spaces())}"
        )
    return path


def space(name_or_file: str, profile: str = "full", settings: Mapping[str, Any] | None = None) -> SearchSpace:
    """Load a space by shipped name or by file, resolved for ``profile`` and ``--set`` overrides.

    Raises:
        SpaceError: there is no such space, or it has mistakes (all of them are named).
    """
    return load_space(_file(name_or_file), family, metrics=DIRECTIONS, profile=profile, settings=settings)
