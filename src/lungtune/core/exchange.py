"""Exchange of a family's task, and of what a search space says about it, for the task that the data have targets of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution

from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.space import SearchSpace
from lungtune.core.task import Task
from lungtune.errors import SpaceError


def wanted(family: Family[Any, Any], substitutes: Sequence[type[Task]], traits: Collection[str]) -> Task | None:
    """Return the task that a family must be exchanged to for data with ``traits``; None where it fits them as it is.

    Args:
        family: as declared.
        substitutes: tasks that replace others.
        traits: kinds of fields that the data have.
    """
    for own in family.tasks:
        lacking = [field for field in own.targets if field.kind not in traits]
        for kind in substitutes if lacking else ():
            if kind.replaces == own.name and all(field.kind in traits for field in kind.targets):
                return kind.replacing(own)
    return None


def named(family: Family[Any, Any], substitutes: Sequence[type[Task]], name: str) -> Task | None:
    """Return the task of that name that replaces one of the family's; None without such a one, or if it has it."""
    if any(own.name == name for own in family.tasks):
        return None
    kinds = [kind for kind in substitutes if kind.name == name]
    return next((kind.replacing(own) for own in family.tasks for kind in kinds if kind.replaces == own.name), None)


def acting(space: SearchSpace, family: Family[Any, Any], traits: Collection[str]) -> SearchSpace:
    """Return a space of one family without the axes of its tasks that do nothing on data with ``traits``."""
    idle = [
        name for task in family.tasks for name in task.axes() if name in space.axes and name not in task.axes(traits)
    ]
    if not idle:
        return space
    specs = parameters.specs(family.Params)
    note = f"{space.name}: {', '.join(idle)} {_is(idle)} not searched, as nothing in these data depends on it."
    return replace(
        space,
        axes={name: axis for name, axis in space.axes.items() if name not in idle},
        fixed={**space.fixed, **{name: specs[name].default for name in idle}},
        start=tuple({name: value for name, value in point.items() if name not in idle} for point in space.start),
        notes=(*space.notes, note),
    )


def exchanged(space: SearchSpace, before: Family[Any, Any], task: Task, traits: Collection[str] | None) -> SearchSpace:
    """Return a space of one family for that family with ``task`` in place of the one it replaces.

    Parameters that do nothing there are left out, those of the task are added. The objective stays where the task has
    a metric of that name, else it is the task's default. ``notes`` state all changes.

    Args:
        space: of the family as it was.
        before: that family.
        task: see :func:`wanted`.
        traits: of the data, for the axes that the task adds; None: not known yet, see :func:`acting`.

    Raises:
        SpaceError: the objective is of another task of the family, which is not replaced.
    """
    after = before.exchanged(task)
    objective = _objective(space, after, task)
    specs, old = parameters.specs(after.Params), parameters.specs(before.Params)
    added = {name: CategoricalDistribution(choices) for name, choices in task.axes(traits).items()}
    mine = {name: spec.default for name, spec in specs.items() if name not in old}
    axes = {name: axis for name, axis in space.axes.items() if name in specs or name in space.base} | added
    fixed = {**mine, **{name: value for name, value in space.fixed.items() if name in specs}}
    starts = [_kept(point, specs, space.base) | {name: specs[name].default for name in added} for point in space.start]
    idle = sorted(name for name in old if name not in specs and _set(space, name, old[name].default))
    moved = [f"objective {objective.metric} instead of {space.objective.metric}"] * (
        objective.metric != space.objective.metric
    )
    unused = [f"{', '.join(idle)} {_is(idle)} left out, being of classes"] if idle else []
    searched = [f"{', '.join(added)} {_is(list(added))} searched"] if added else []
    note = f"{space.name} trains for {task.name}: {'; '.join([*moved, *searched, *unused])}."
    return replace(
        space,
        objective=objective,
        axes=axes,
        fixed={name: value for name, value in fixed.items() if name not in axes},
        start=tuple({repr(point): point for point in starts}.values()),
        inert=parameters.inert(after.Base, after.Params),
        notes=(*space.notes, note),
    )


def _objective(space: SearchSpace, after: Family[Any, Any], task: Task) -> Any:
    own = space.objective
    if own.task == task.replaces:
        return after.objective(f"{task.name}.{own.own if own.own in task.metrics else next(iter(task.metrics))}")
    raise SpaceError(
        f"objective must be a metric of {task.name} where {space.family} trains for that ({', '.join(task.metrics)}), "
        f"but got {own.full}; leave it out, or write --set objective={task.name}.{next(iter(task.metrics))}."
    )


def _kept(point: Mapping[str, Any], specs: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name in specs or name in base}


def _set(space: SearchSpace, name: str, default: Any) -> bool:
    """True if a space searches a parameter or gives it another value than the default."""
    return name in space.axes or space.fixed.get(name, default) != default


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
