"""Names to things: model families, search spaces, schedulers. Found by file name; nothing is registered by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trainables
from lungtune import schedulers
from lungtune.core import members, setting, yamlfile
from lungtune.core.family import Trainable
from lungtune.core.paths import ROOT
from lungtune.core.space import SearchSpace, together
from lungtune.core.spacefile import load_space
from lungtune.errors import SpaceError, did_you_mean

SPACES = ROOT / "search_spaces"


def families() -> list[str]:
    """Return the names of all model families."""
    return members.names(trainables)


def family(name: str) -> Trainable:
    """Return a model family by name.

    Raises:
        SpaceError: there is none of that name.
    """
    if name not in families():
        raise SpaceError(f"there is no model family '{name}'.{did_you_mean(name, families())}")
    trainable: Trainable = members.load(trainables, name, "TRAINABLE")
    return trainable


def spaces() -> dict[str, Path]:
    """Return the files of all shipped search spaces by name."""
    return {path.stem: path for path in sorted(SPACES.glob("*.yaml"))}


def summary(name: str) -> str:
    """Return the one-line summary of a shipped space."""
    return str(yamlfile.load(spaces()[name]).get("summary", ""))


def default_profile(names: str, *, with_data: bool) -> str:
    """Return the profile of a search that names none: ``full`` with one's own data, else ``demo`` if there is one."""
    profiles = [yamlfile.load(_file(name)).get("profiles", {}) for name in _split(names)]
    demo = all(isinstance(each, dict) and "demo" in each for each in profiles)
    return "demo" if not with_data and demo else "full"


def _split(names: str) -> list[str]:
    """Take ``a,b,c`` apart; one file whose name has a comma is one file."""
    return [names] if Path(names).expanduser().is_file() else [name.strip() for name in names.split(",")]


def _file(name_or_file: str) -> Path:
    path = spaces().get(name_or_file) or Path(name_or_file).expanduser()
    if not path.is_file():
        raise SpaceError(
            f"--space must name a shipped space or a YAML file, but got '{name_or_file}'."
            f"{did_you_mean(name_or_file, spaces())}"
        )
    return path


def space(names: str, profile: str = "full", settings: Mapping[str, Any] | None = None) -> SearchSpace:
    """Load a space by shipped name or by file, resolved for ``profile`` and ``--set`` overrides.

    Args:
        names: one, or several joined by commas: one search over all of them.
        profile: of every one of them.
        settings: for several spaces, a setting counts for every space that has it, ``NAME.KEY`` for one of them.

    Raises:
        SpaceError: there is no such space, or it has mistakes (all of them are named).
    """
    files, settings = [_file(name) for name in _split(names)], setting.gathered(settings or {})
    if len(files) == 1:
        return _load(files[0], profile, settings)
    unknown: dict[str, SpaceError] = {}
    known: set[str] = set()
    joined: list[SearchSpace] = []
    for file in files:
        member = _load(file, profile, {})
        for key, value in settings.items():
            owner = next((other.stem for other in files if key.startswith(f"{other.stem}.")), None)
            if owner not in (None, file.stem):
                continue
            mine = owner == file.stem
            own = key.removeprefix(f"{file.stem}.")
            try:
                member = setting.apply(member, family(member.family), schedulers.get, own, value)
                known.add(key)
            except setting.UnknownSettingError as error:
                unknown[key] = error
            except SpaceError as error:
                where = "" if mine else f"in {file.stem}, "
                raise SpaceError(f"--set {key}={value}: {where}{error}") from error
        joined.append(member)
    for key, error in unknown.items():
        if key not in known:
            raise SpaceError(f"--set {key}={settings[key]}: {error}") from error
    return together(joined)


def _load(file: Path, profile: str, settings: Mapping[str, Any]) -> SearchSpace:
    return load_space(file, family, schedulers.get, profile=profile, settings=settings)
