"""Index of search space files by name, shipped and own. Imports no torch, no optuna; for ``--list``."""

from __future__ import annotations

from pathlib import Path

from lungtune.core import paths, yamlfile


def files() -> dict[str, Path]:
    """Return the files of all search spaces by name: the shipped ones, then a user's own of other names."""
    by_name: dict[str, Path] = {}
    for folder in (paths.SPACES, *(each / "search_spaces" for each in paths.own_folders())):
        for path in sorted(folder.glob("*.yaml")):
            by_name.setdefault(path.stem, path)
    return by_name


def summary(path: Path) -> str:
    """Return the one-line summary of a space."""
    return str(yamlfile.load(path).get("summary", ""))
