"""What a family must hold, checked when it is loaded: every breach at once, each with file, line and remedy."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.fields import Field
from lungtune.core.task import Metric, Task
from lungtune.errors import SpaceError, did_you_mean

NAME = "FAMILY"
"""What the instance in a family's module is called."""

LOOP = (
    *("lr", "weight_decay", "batch_size", "augmentation", "optimizer", "momentum"),
    *("warmup", "warmup_start", "lr_schedule", "lr_cosine", "lr_step", "lr_gamma"),
)
"""Parameters of every family that the training loop reads."""

_ABSTRACT = "must have these methods (docstrings in lungtune.core.family say what they do)"


def load(module: ModuleType) -> Family[Any, Any]:
    """Return the family of a module of ``trainables``.

    Raises:
        SpaceError: it breaks the contract; every breach is ``file:line: what must hold, what was got``.
    """
    found = getattr(module, NAME, None)
    file = inspect.getsourcefile(module) or module.__name__
    if not isinstance(found, Family):
        near = [name for name in vars(module) if not name.startswith("_")]
        got = f"'{NAME}' is {type(found).__name__}" if hasattr(module, NAME) else f"'{NAME}' is missing"
        hint = did_you_mean(NAME, near) if found is None else ""
        raise SpaceError(
            f"{file}:1: a family's module must end in {NAME} = <instance of lungtune.core.family.Family>, but {got}."
            f"{hint if 'Did you mean' in hint else ''}"
        )
    problems = [f"{where}: {sentence}" for where, sentence in breaches(found)]
    if problems:
        raise SpaceError("\n".join(problems))
    return found


def breaches(family: Family[Any, Any]) -> Iterator[tuple[str, str]]:
    """Yield (file:line, sentence) for each thing that does not hold."""
    kind = type(family)
    here = _line(kind)
    if not getattr(kind, "summary", "") or not isinstance(kind.summary, str):
        yield here, f"{kind.__name__}.summary must be one line of text, but is {getattr(kind, 'summary', None)!r}."
    yield from _tasks(family, here)
    inputs = getattr(kind, "inputs", ())
    if not inputs or not all(isinstance(field, Field) for field in inputs):
        yield (
            here,
            (f"{kind.__name__}.inputs must be fields of lungtune.core.fields such as (IMAGE,), but is {inputs!r}."),
        )
    elif len({3 if field.kind == "volume" else 2 for field in inputs if field.pixels}) > 1:
        yield here, f"{kind.__name__}.inputs must be images or volumes, not both: they have no common extent."
    yield from _dataclass(kind, "Base", ("image_size",))
    needs = [*LOOP]
    yield from _dataclass(kind, "Params", needs)
    specs = parameters.specs(kind.Params) if dataclasses.is_dataclass(getattr(kind, "Params", None)) else {}
    for name, value in kind.ablation.items():
        if name not in specs:
            yield here, f"{kind.__name__}.ablation names '{name}', which is no parameter.{did_you_mean(name, specs)}"
            continue
        try:
            specs[name].check(value)
        except SpaceError as error:
            yield here, f"{kind.__name__}.ablation: {error}"


def _tasks(family: Family[Any, Any], here: str) -> Iterator[tuple[str, str]]:
    kind = type(family)
    tasks = getattr(kind, "tasks", None)
    wanted = "tasks must be instances such as (Classification(),) of lungtune.tasks or of your own"
    if not isinstance(tasks, tuple) or not tasks:
        yield here, f"{kind.__name__}.{wanted}, but {'is missing' if tasks is None else f'is {tasks!r}'}."
        return
    names: list[str] = []
    for task in tasks:
        if not isinstance(task, Task):
            yield here, f"{kind.__name__}.{wanted}, but holds {task!r}."
            continue
        if task.name in names:
            yield here, f"{kind.__name__}.tasks must each have a name of their own, but '{task.name}' comes twice."
        names.append(task.name)
        where = _line(type(task))
        if not task.metrics or not all(isinstance(metric, Metric) for metric in task.metrics.values()):
            yield where, f"{type(task).__name__}.metrics must map names to Metric(mode, help), the default first."
        elif odd := [name for name, metric in task.metrics.items() if metric.mode not in ("max", "min")]:
            yield where, f"{type(task).__name__}.metrics: the mode of '{odd[0]}' must be max or min."
        if not all(isinstance(field, Field) for field in task.targets):
            yield where, f"{type(task).__name__}.targets must be fields of lungtune.core.fields such as (LABEL,)."
        elif strange := set(task.compared) - {field.name for field in task.targets}:
            yield where, f"{type(task).__name__}.compared must name targets of its own, but names '{min(strange)}'."


def _dataclass(kind: type, name: str, needed: tuple[str, ...] | list[str]) -> Iterator[tuple[str, str]]:
    cls = getattr(kind, name, None)
    if not inspect.isclass(cls) or not dataclasses.is_dataclass(cls):
        yield _line(kind), f"{kind.__name__}.{name} must be a frozen dataclass, but is {cls!r}."
        return
    where = _line(cls)
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield where, f"{name} must be frozen: write @dataclass(frozen=True)."
    fields = {field.name: field for field in dataclasses.fields(cls)}
    plain = [field.name for field in fields.values() if parameters.KEY not in field.metadata]
    if plain:
        yield where, f"every field of {name} must be made by lungtune.core.params.param, but '{plain[0]}' is not."
    for missing in (each for each in needed if each not in fields):
        yield (
            where,
            (
                f"{name} must have a field '{missing}', which the training loop reads, but has none."
                + (" Inherit from lungtune.models.params.Loop." if name == "Params" else did_you_mean(missing, fields))
            ),
        )


def _line(cls: type) -> str:
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
        return f"{file}:{max(1, line)}"
    except (OSError, TypeError):
        return f"{Path(inspect.getfile(cls)) if cls.__module__ in dir() else cls.__module__}:1"
