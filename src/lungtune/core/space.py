"""Fully resolved search space as plain data."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    distribution_to_json,
    json_to_distribution,
)

from lungtune.core.lineage import Segment
from lungtune.core.params import MOST, acting
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError

SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2")
COUNTS = {"trials": 1, "slots": 0, "max_slots": 1}
"""Whole numbers of a space, and the least value of each; the largest is ``params.MOST``."""

SPACE = "space"
"""Name of the axis of a search over several spaces that selects the space of a trial's configuration."""


def check_count(key: str, value: Any) -> int:
    """Return the value of one of ``COUNTS``.

    Raises:
        SpaceError: it is no whole number, too small or too large.
    """
    least = COUNTS[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SpaceError(f"{key} must be a whole number >= {least}, but got {value!r}.")
    if value > MOST:
        raise SpaceError(f"{key} must be a whole number <= {MOST}, but got {value!r}.")
    return value


@dataclass(frozen=True)
class Configuration:
    """Configuration of one trial; ``base`` and ``params`` have every field of the family's ``Base`` and ``Params``."""

    family: str
    base: Mapping[str, Any]
    params: Mapping[str, Any]


@dataclass(frozen=True)
class SearchSpace:
    """Search space, resolved for one profile. Everything in it is plain data.

    Axes are over fields of the family's ``Params``, or over fields of its ``Base``, such as a model's size: trials with
    equal bases train together. A search over several spaces has ``members``, the axis ``space`` over their names, and
    a family for display only; everything else is taken from the trial's member (:meth:`of`).
    """

    name: str
    family: str
    summary: str
    profile: str
    objective: Objective
    sampler: str
    trials: int
    fidelity: Fidelity
    base: Mapping[str, Any]
    fixed: Mapping[str, Any]
    axes: Mapping[str, BaseDistribution]
    start: tuple[Mapping[str, Any], ...]
    data: str | None = None
    seed: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    slots: int = 0
    """Trials that train together on a device; 0: measured there."""
    max_slots: int = 16
    """Maximum that the measurement may choose."""
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    text: str = ""
    members: tuple[SearchSpace, ...] = ()
    inert: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Conditions under which a parameter is inert, see ``params.inert``; {} in studies of version 0.1."""
    notes: tuple[str, ...] = ()
    """Sentences on start points that a setting changed."""
    segments: tuple[Segment, ...] = ()
    """Of a recipe: segments that are trained before ``fixed`` and ``seed``, with every parameter of the family."""

    def with_params(self, changes: Mapping[str, Any]) -> SearchSpace:
        """Return this recipe with other values of some parameters, in every segment."""
        segments = tuple(replace(segment, params={**segment.params, **changes}) for segment in self.segments)
        return replace(self, fixed={**self.fixed, **changes}, segments=segments)

    def of(self, params: Mapping[str, Any]) -> SearchSpace:
        """Return the space of one family that a trial's ``params`` are from."""
        return next((member for member in self.members if member.name == params.get(SPACE)), self)

    def configuration(self, params: Mapping[str, Any]) -> Configuration:
        """Return what a trial with these ``params`` (as in the journal) trains."""
        space = self.of(params)
        base = {name: params.get(name, value) for name, value in space.base.items()}
        rest = {name: value for name, value in params.items() if name not in space.base and name != SPACE}
        return Configuration(space.family, base, rest)

    def acting(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a trial's ``params`` that change something; trials that agree in them are the same."""
        return acting(params, self.of(params).inert)

    @property
    def bases(self) -> tuple[tuple[str, Mapping[str, Any]], ...]:
        """Every (family, base) that a trial may train on."""
        if self.members:
            return tuple(base for member in self.members for base in member.bases)
        names = [name for name in self.axes if name in self.base]
        chosen = itertools.product(*(self.axes[name].choices for name in names))  # type: ignore[attr-defined]
        points = [*self.start, *(dict(zip(names, values)) for values in chosen)]
        return tuple({repr(c.base): (c.family, c.base) for c in map(self.configuration, points)}.values())

    def values(self, name: str, default: Any) -> list[Any]:
        """Return all values that a trial may have of a parameter, of a range its ends.

        Args:
            name: of the parameter.
            default: its value where the family does not have it. Start points may lie outside the axis.
        """
        axis = self.axes.get(name)
        own: Iterable[Any] = [self.fixed.get(name, default)]
        if axis is not None:
            own = getattr(axis, "choices", None) or (axis.low, axis.high)  # type: ignore[attr-defined]
        segments = [segment.params[name] for segment in self.segments if name in segment.params]
        return [*own, *segments, *(point[name] for point in self.start if name in point)]

    def searched(self, params: Mapping[str, Any]) -> list[str]:
        """Return the names of the searched parameters of a trial with these ``params``."""
        return [SPACE, *self.of(params).axes] if self.members else list(self.axes)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data from which :meth:`from_dict` builds an equal space."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["objective"] = self.objective.to_dict()
        data["fidelity"] = dataclasses.asdict(self.fidelity)
        data["scheduler"] = self.scheduler.to_dict()
        data["axes"] = {name: distribution_to_json(axis) for name, axis in self.axes.items()}
        data["start"] = [dict(point) for point in self.start]
        data["members"] = [member.to_dict() for member in self.members]
        data["notes"] = list(self.notes)
        data["segments"] = [dataclasses.asdict(segment) for segment in self.segments]
        return data if self.segments else {name: value for name, value in data.items() if name != "segments"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Build a space from :meth:`to_dict`'s data; unknown keys are ignored."""
        known = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        known["objective"] = Objective.from_dict(known["objective"])
        known["fidelity"] = Fidelity(**known["fidelity"])
        known["scheduler"] = SchedulerConfig.from_dict(known["scheduler"])
        known["axes"] = {name: json_to_distribution(text) for name, text in known["axes"].items()}
        known["start"] = tuple(known["start"])
        known["members"] = tuple(map(cls.from_dict, known.get("members", ())))
        known["notes"] = tuple(known.get("notes", ()))
        known["segments"] = tuple(Segment(**segment) for segment in known.get("segments", ()))
        return cls(**known)


def together(spaces: Sequence[SearchSpace]) -> SearchSpace:
    """Return one space over several: an axis selects the member, and each member's axes are conditional on it.

    Sampler and scheduler are the first member's, the fidelity is the longest, the number of trials the largest; the
    first start point of each member comes first, and is never stopped.

    Raises:
        SpaceError: a space is named twice, or objectives differ.
    """
    names = [space.name for space in spaces]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise SpaceError(f"each space may be named once, but got '{doubled}' twice.")
    if len({space.objective for space in spaces}) > 1:
        listed = ", ".join(f"{space.objective.full} ({space.name})" for space in spaces)
        raise SpaceError(f"spaces searched together must have one objective, but got {listed}.")
    first = spaces[0]
    joined = "-".join(names)
    return dataclasses.replace(
        first,
        name=joined if len(joined) <= 60 else f"{len(names)}-spaces",
        family=" + ".join(dict.fromkeys(space.family for space in spaces)),
        summary=f"one search over {', '.join(names)}",
        fidelity=max((space.fidelity for space in spaces), key=lambda fidelity: fidelity.max),
        trials=max(space.trials for space in spaces),
        base={},
        fixed={},
        axes={SPACE: CategoricalDistribution(names)},
        start=tuple({SPACE: space.name, **space.start[0]} for space in spaces if space.start),
        why=next((space.why for space in spaces if space.why), ""),
        text="\n---\n".join(space.text for space in spaces),
        members=tuple(dataclasses.replace(space, text="") for space in spaces),
        inert={},
        notes=tuple(f"{space.name}: {note}" for space in spaces for note in space.notes),
    )
