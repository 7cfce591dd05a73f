"""One entry of a space file or one ``--set``: checked, and turned into what a space holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lungtune.core import params as parameters
from lungtune.core.family import Trainable
from lungtune.core.params import ParamSpec
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import Scheduler
from lungtune.core.space import COUNTS, SAMPLERS, SearchSpace
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError, did_you_mean

_RANGE_KEYS = {"low", "high", "log", "step"}


class UnknownSettingError(SpaceError):
    """A space has no setting of that name."""


def axis(spec: ParamSpec, value: Any) -> BaseDistribution | Any:
    """Turn one entry of ``params`` into a distribution (searched) or a checked value (fixed).

    Raises:
        SpaceError: the entry is not what the parameter takes.
    """
    if isinstance(value, list):
        choices = [spec.check(item) for item in value]
        if len(choices) < 2 or len(set(map(repr, choices))) != len(choices):
            raise SpaceError(f"{spec.name}: a list must hold at least two different choices, but got {value!r}.")
        return CategoricalDistribution(choices)
    if not isinstance(value, Mapping):
        return spec.check(value)
    unknown = [key for key in value if key not in _RANGE_KEYS]
    if unknown or "low" not in value or "high" not in value:
        wrong = f" '{unknown[0]}' is not one of its keys.{did_you_mean(unknown[0], _RANGE_KEYS)}" if unknown else ""
        raise SpaceError(f"{spec.name}: a range is written {{low: A, high: B, log: true|false}}.{wrong}")
    if spec.type not in (int, float) or spec.choices is not None:
        raise SpaceError(f"{spec.name} takes choices, not a range; write a list: {spec.name}: [a, b].")
    low, high = spec.check(value["low"]), spec.check(value["high"])
    if not low < high:
        raise SpaceError(f"{spec.name}: low < high must hold, but got low={low:g}, high={high:g}; swap them.")
    log, step = value.get("log", False), value.get("step")
    if not isinstance(log, bool) or (step is not None and not isinstance(step, (int, float))):
        raise SpaceError(f"{spec.name}: log must be true or false and step a number, but got {log!r}, {step!r}.")
    if log and (low <= 0 or step is not None):
        raise SpaceError(f"{spec.name}: a log range needs low > 0 and no step, but got low={low:g}, step={step}.")
    if spec.type is int:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def base_axis(spec: ParamSpec, value: Any) -> BaseDistribution | Any:
    """Turn one entry of ``base`` into choices or a checked value, as ``axis`` does; a base takes no ranges.

    Raises:
        SpaceError: the entry is not what the base setting takes.
    """
    result = axis(spec, value)
    if isinstance(result, BaseDistribution) and not isinstance(result, CategoricalDistribution):
        raise SpaceError(f"{spec.name} takes a value or a list of choices, not a range: each is a model of its own.")
    return result


def among(axis: BaseDistribution, value: Any) -> Any:
    """Return what a start point has that does not name a searched base setting: ``value``, or else the first choice."""
    outside = isinstance(axis, CategoricalDistribution) and value not in axis.choices
    return axis.choices[0] if outside else value


def gathered(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make settings independent of their order.

    All ``fidelity.<field>`` become one entry, because they have to fit together; ``scheduler`` comes before
    ``scheduler.<field>``, because the field is looked up in the scheduler that is chosen.
    """
    names = {key: key.partition("fidelity.") for key in settings}
    rest = {key: value for key, value in settings.items() if not names[key][1]}
    for key, (owner, found, field) in names.items():
        if found:
            rest.setdefault(f"{owner}fidelity", {})[field] = settings[key]
    late = {key: value for key, value in rest.items() if "scheduler" in key.split(".")[:-1]}
    return {key: value for key, value in rest.items() if key not in late} | late


def apply(
    space: SearchSpace, trainable: Trainable, scheduler: Callable[[str], type[Scheduler[Any]]], key: str, value: Any
) -> SearchSpace:
    """Apply one ``--set``: fix a parameter, change a base setting or one of the space's own fields.

    A base setting that is fixed is fixed for the start points too: no other backbone is looked for.

    Args:
        space: before the change.
        trainable: the space's family.
        scheduler: returns a scheduler class by name.
        key: see ``spacefile.load_space``.
        value: as read from the command line.

    Raises:
        SpaceError: the key is not known or does not take the value.
    """
    param_specs, base_specs = parameters.specs(trainable.Params), parameters.specs(trainable.Base)
    if key in param_specs:
        result = axis(param_specs[key], value)
        axes = {name: axis for name, axis in space.axes.items() if name != key}
        fixed = {name: v for name, v in space.fixed.items() if name != key}
        (axes if isinstance(result, BaseDistribution) else fixed)[key] = result
        return dataclasses.replace(space, axes=axes, fixed=fixed)
    if key in base_specs:
        result = base_axis(base_specs[key], value)
        axes = {name: axis for name, axis in space.axes.items() if name != key}
        if isinstance(result, BaseDistribution):
            base = {**space.base, key: among(result, space.base[key])}
            return dataclasses.replace(space, axes={key: result, **axes}, base=base)
        start = tuple({name: v for name, v in point.items() if name != key} for point in space.start)
        return dataclasses.replace(space, axes=axes, base={**space.base, key: result}, start=start)
    if key == "fidelity" and isinstance(value, Mapping):
        return dataclasses.replace(space, fidelity=Fidelity.of({**dataclasses.asdict(space.fidelity), **value}))
    if key == "scheduler" or key.startswith("scheduler."):
        entry = value if key == "scheduler" else {key.removeprefix("scheduler."): value}
        return dataclasses.replace(space, scheduler=space.scheduler.changed(entry, scheduler))
    if key in COUNTS and isinstance(value, int) and value >= COUNTS[key]:
        return dataclasses.replace(space, **{key: value})
    if key == "sampler" and value in SAMPLERS:
        return dataclasses.replace(space, sampler=value)
    if key == "objective" and value in trainable.metrics:
        return dataclasses.replace(space, objective=Objective(value, trainable.metrics[value]))
    known = {*param_specs, *base_specs, *COUNTS, "sampler", "objective", "scheduler"}
    groups = {"fidelity": Fidelity, "scheduler": scheduler(space.scheduler.name).Settings}
    known |= {f"{name}.{f.name}" for name, kind in groups.items() for f in dataclasses.fields(kind)}
    if key in COUNTS:
        raise SpaceError(f"{key} must be a whole number >= {COUNTS[key]}, but got {value!r}.")
    if key in ("sampler", "objective"):
        allowed = SAMPLERS if key == "sampler" else trainable.metrics
        raise SpaceError(f"{key} must be known.{did_you_mean(str(value), allowed)}")
    raise UnknownSettingError(f"'{key}' can't be set.{did_you_mean(key, known)}")
