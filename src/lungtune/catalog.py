"""Lookup of model families, search spaces and schedulers by file name; nothing is registered by hand."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from lungtune import schedulers, tasks, trainables
from lungtune.core import contract, exchange, members, paths, space_index, spacefile, yamlfile
from lungtune.core.contract import ContractError
from lungtune.core.family import Family
from lungtune.core.params import specs
from lungtune.core.paths import SPACES
from lungtune.core.space import SearchSpace, together
from lungtune.core.task import Task
from lungtune.errors import LungtuneError, SpaceError, did_you_mean

PHANTOM = "phantom"
"""Name of the built-in data source, which needs no files."""

OWN = "lungtune_user"
"""Package under which modules of a user's folders are imported, so that none can shadow a shipped one."""


def families() -> list[str]:
    """Return the names of all model families, shipped and own."""
    return sorted({*_shipped(), *_own()})


def _shipped() -> list[str]:
    return members.names(trainables)


def _own() -> dict[str, Path]:
    """Return the files of a user's own families by name, the first folder's first."""
    by_name: dict[str, Path] = {}
    for folder in paths.own_folders():
        for path in sorted((folder / "trainables").glob("*.py")):
            if not path.stem.startswith("_"):
                by_name.setdefault(path.stem, path)
    return by_name


def family(name: str, task: str = "") -> Family[Any, Any]:
    """Return a model family by name.

    Args:
        name: of the family.
        task: that of the objective. Where the family lacks it, and it replaces one that the family has, the family is
            returned with it (``Task.replaces``).

    Raises:
        SpaceError: there is none of that name, an own one has the name of a shipped one, its file can't be imported,
            or it breaks the contract (every breach with file and line).
    """
    declared = _declared(name)
    if not task or any(each.name == task for each in declared.tasks):
        return declared
    other = exchange.named(declared, substitutes(), task)
    return declared.exchanged(other) if other else declared


def substitutes() -> list[type[Task]]:
    """Return the shipped tasks that take the place of others."""
    folders = [module.name for module in pkgutil.iter_modules(tasks.__path__) if module.ispkg]
    modules = [importlib.import_module(f"{tasks.__name__}.{name}") for name in sorted(folders)]
    kinds = [kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)]
    return [kind for kind in kinds if issubclass(kind, Task) and kind.replaces]


def fitted(space: SearchSpace, traits: Collection[str]) -> SearchSpace:
    """Return a space for data with these traits, exchanged where needed to the task that they have targets of.

    Args:
        space: of one family or several.
        traits: kinds of fields that the data have, and ``uncertain`` where a label is uncertain.

    Raises:
        SpaceError: the space's objective is of no task that then is trained.
    """
    if space.members:
        members = [fitted(member, traits) for member in space.members]
        return space if tuple(members) == space.members else replace(together(members), text=space.text)
    declared = family(space.family, space.objective.task)
    task = exchange.wanted(declared, substitutes(), traits)
    if task:
        return exchange.exchanged(space, declared, task, traits)
    return exchange.acting(space, declared, traits)


def _asked(settings: Mapping[str, Any]) -> str:
    """Return the task that ``--set`` names by its objective or by a parameter of its own; empty where it names none."""
    for kind in substitutes() if settings else ():
        own = specs(kind.Params) if kind.Params else {}
        names = {key.rpartition(".")[2] for key in settings}
        objectives = (str(value) for key, value in settings.items() if key.rpartition(".")[2] == "objective")
        if names & set(own) or any(value.partition(".")[0] == kind.name for value in objectives):
            return kind.name
    return ""


def _declared(name: str) -> Family[Any, Any]:
    """Return a family as its module declares it; see :func:`family`."""
    own = _own()
    if name not in families():
        raise SpaceError(f"there is no model family '{name}'.{_or_own(name, families(), 'trainables/*.py')}")
    if name not in own:
        return contract.load(importlib.import_module(f"{trainables.__name__}.{name}"))
    if name in _shipped():
        raise ContractError(
            f"{own[name]}:1: the family must have another name: lungtune has one of the name '{name}'. Rename the file."
        )
    return contract.load(_imported(name, own[name]), members.names(tasks))


def is_own(name: str) -> bool:
    """True if a family is a user's own."""
    return name in _own()


def _or_own(name: str, known: Iterable[str], pattern: str) -> str:
    """Return ``did_you_mean``; without a close name, add the folders that are searched for a user's own."""
    hint = did_you_mean(name, known)
    folders = [str(folder / pattern) for folder in paths.own_folders()]
    if "Did you mean" in hint:
        return hint
    own = f"looked for in {', '.join(folders)}" if folders else "looked for in a folder that LUNGTUNE_PATH names"
    return f"{hint} Your own are {own}."


def _imported(name: str, file: Path) -> ModuleType:
    """Import a module of a user's folder as ``lungtune_user.trainables.<name>``."""
    package = sys.modules.setdefault(OWN, ModuleType(OWN))
    package.__path__ = [str(folder) for folder in paths.own_folders()]
    try:
        return importlib.import_module(f"{OWN}.trainables.{name}")
    except (Exception, SystemExit) as error:
        where, names = _innermost(error) or (f"{file}:1", {})
        raise ContractError(f"{where}: {contract.import_problem(error, names, _tasks())}") from error


def _tasks() -> list[str]:
    """Return the modules of all tasks, shipped and own."""
    folders = [folder / "tasks" for folder in paths.own_folders()]
    own = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.is_dir()}
    return [
        *(f"lungtune.tasks.{name}" for name in members.names(tasks)),
        *(f"{OWN}.tasks.{name}" for name in sorted(own) if not name.startswith(("_", "."))),
    ]


@contextmanager
def family_errors(name: str) -> Iterator[None]:
    """Name file and line where the code of a user's own family raises an unexpected error inside the ``with`` block.

    Args:
        name: of the family; nothing changes for a shipped one.

    Raises:
        ContractError: in place of what was raised in a user's folder.
    """
    try:
        yield
    except (LungtuneError, MemoryError):
        raise
    except Exception as error:
        place = _innermost(error) if is_own(name) else None
        if place is None or "out of memory" in str(error):
            raise
        what = f"{type(error).__name__}: {error}"
        raise ContractError(f"{place[0]}: the family '{name}' must run, but raises {what}") from error


def _innermost(error: BaseException) -> tuple[str, dict[str, Any]] | None:
    """Return ``file:line`` and global names of the innermost place in a user's folders that an error came from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno or 1}", {}
    place = None
    homes = tuple(f"{folder / kind}{os.sep}" for folder in paths.own_folders() for kind in ("trainables", "tasks"))
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(homes):
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}", trace.tb_frame.f_globals
        trace = trace.tb_next
    return place


def spaces() -> dict[str, Path]:
    """Return the files of all search spaces by name: the shipped ones, then a user's own of other names."""
    return space_index.files()


def default_profile(names: str, source: str | None) -> str:
    """Return the profile of a search that names none: ``full`` on real data, else ``demo`` if there is one.

    Args:
        names: of the spaces.
        source: the data source as the user named it; None: phantoms.
    """
    return "full" if is_real(source) or not has_demo(names) else "demo"


def is_real(source: str | None) -> bool:
    """True if a data source, as the user named it, holds anything but phantoms."""
    return re.split("[:,]", source or PHANTOM, maxsplit=1)[0].strip() != PHANTOM


def has_demo(names: str) -> bool:
    """True if all these spaces have a profile ``demo``.

    Raises:
        SpaceError: there is no such space.
    """
    profiles = [yamlfile.load(_file(name)).get("profiles", {}) for name in _split(names)]
    return all(isinstance(each, dict) and "demo" in each for each in profiles)


def _split(names: str) -> list[str]:
    """Split ``a,b,c`` at the commas; an existing file whose name has a comma is one name."""
    return [names] if paths.expanded(names).is_file() else [name.strip() for name in names.split(",")]


def _file(name_or_file: str) -> Path:
    path = spaces().get(name_or_file) or paths.expanded(name_or_file)
    if not path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        near = (
            {str(path.with_name(each.name)) for each in path.parent.glob("*.y*ml")} if path.parent.is_dir() else set()
        )
        state = "is no file" if path.exists() else "does not exist"
        raise SpaceError(f"--space: {path} {state}.{did_you_mean(str(path), near)}")
    if not path.is_file():
        raise SpaceError(
            f"--space must name a shipped space or a YAML file, but got '{name_or_file}'."
            f"{_or_own(name_or_file, spaces(), 'search_spaces/*.yaml')}"
        )
    for folder in paths.own_folders() if path.parent == SPACES else ():
        own = folder / "search_spaces" / path.name
        if own.is_file() and not own.samefile(path):
            raise SpaceError(
                f"{own}:1: the space must have another name: lungtune has one of the name '{path.stem}'. "
                "Rename the file."
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
    files, settings = [_file(name) for name in _split(names)], spacefile.merge_nested(settings or {})
    task = _asked(settings)
    if len(files) == 1:
        return _load(files[0], profile, settings, task)
    unknown: dict[str, SpaceError] = {}
    known: set[str] = set()
    joined: list[SearchSpace] = []
    for file in files:
        member = _load(file, profile, {}, task)
        for key, value in settings.items():
            owner = next((other.stem for other in files if key.startswith(f"{other.stem}.")), None)
            if owner not in (None, file.stem):
                continue
            mine = owner == file.stem
            own = key.removeprefix(f"{file.stem}.")
            try:
                declared = family(member.family, member.objective.task)
                member = spacefile.apply(member, declared, schedulers.get, own, value)
                known.add(key)
            except spacefile.UnknownSettingError as error:
                unknown[key] = error
            except SpaceError as error:
                where = "" if mine else f"in {file.stem}, "
                raise SpaceError(f"--set {key}={value}: {where}{error}") from error
        joined.append(member)
    for key, reason in unknown.items():
        if key not in known:
            raise SpaceError(f"--set {key}={settings[key]}: {reason}") from reason
    return together(joined)


def _load(file: Path, profile: str, settings: Mapping[str, Any], task: str) -> SearchSpace:
    """Load one space; for ``task`` where its family lacks that and has one that it replaces."""
    space = spacefile.load_space(file, family, schedulers.get, profile=profile)
    declared = family(space.family, space.objective.task)
    other = exchange.named(declared, substitutes(), task) if task else None
    if other:
        space = exchange.exchanged(space, declared, other, None)
        declared = family(space.family, other.name)
    return spacefile.applied(space, declared, schedulers.get, settings)
