"""``--check``: prints a space's parameters and planned work. Imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungtune import catalog
from lungtune.core import devices, terminal
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError
from lungtune.search import sampler
from lungtune.search.ui import live, opening


def check(
    name: str | None,
    profile: str | None,
    settings: Mapping[str, Any],
    trials: int | None,
    data: str | None = None,
    hosts: int | None = None,
    gpus: str | None = None,
) -> int:
    """Print a space's parameters, rungs and planned work.

    Raises:
        SpaceError: the space has mistakes; the message lists all.
    """
    if name is None:
        raise SpaceError(f"--check needs --space; shipped are {', '.join(catalog.spaces())}.")
    devices.choose_gpus(gpus)
    space = catalog.space(name, profile or catalog.default_profile(name, data), settings)
    console = terminal.console()

    def out(*parts: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*parts), soft_wrap=True)

    out((space.name, "bold"), f" ({space.profile}): {space.summary}")
    if space.why:
        out(space.why)
    objective = f"{space.objective.metric}, {'higher' if space.objective.mode == 'max' else 'lower'} is better"
    out(f"family {space.family}; objective {objective}; sampler {space.sampler}")
    for member in space.members or (space,):
        _parameters(member, console)
    for line in _start_points(space, trials or space.trials):
        out(line)
    for note in space.notes:
        out(("note:", "yellow"), f" {note}")
    console.print(live.plan(space, trials or space.trials))
    opening.devices(hosts, gpus, console)
    out("Data and weights are looked at when a search starts: lungtune data check --data ...")
    return 0


def _start_points(space: SearchSpace, trials: int) -> list[str]:
    """Return a line per start point in order of trial number; a space's first is its source configuration."""
    every: dict[int, str] = {}
    for place, member in enumerate(space.members or (space,)):
        points = member.start[: sampler.turns(space, trials)] if space.members else member.start
        for turn, point in enumerate(points):
            number = turn * max(1, len(space.members)) + place
            what = "another start point" if turn else "the source configuration"
            of = f" of {member.name}" if space.members else ""
            values = ", ".join(f"{key}={live.short(value)}" for key, value in point.items())
            every[number] = f"trial {number} is {what}{of}: {values}"
    return [line for number, line in sorted(every.items()) if number < trials]


def _parameters(space: SearchSpace, console: Console) -> None:
    trainable = catalog.family(space.family, space.objective.task)
    table = Table(title=f"Parameters of {space.name}", title_justify="left")
    for heading in ("parameter", "searched over", "meaning"):
        table.add_column(heading)
    base_specs, searched = parameters.specs(trainable.Base), {name for name in space.axes if name in space.base}
    specs = {**{name: base_specs[name] for name in searched}, **parameters.specs(trainable.Params)}
    for field, spec in specs.items():
        axis = space.axes.get(field)
        shown = _axis(axis) if axis is not None else f"fixed: {live.short(space.fixed[field])}"
        table.add_row(field, shown, spec.help + (f" [{spec.unit}]" if spec.unit else ""), style="" if axis else "dim")
    console.print(table)
    base = ", ".join(f"{key}={value}" for key, value in space.base.items() if key not in searched)
    console.print(f"base: {base}", soft_wrap=True)


def _axis(axis: BaseDistribution) -> str:
    if isinstance(axis, CategoricalDistribution):
        return " | ".join(map(str, axis.choices))
    log = ", log" if getattr(axis, "log", False) else ""
    return f"{axis.low:g} .. {axis.high:g}{log}"  # type: ignore[attr-defined]
