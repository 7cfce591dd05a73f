"""Space and recipe files, and ``--set`` overrides: read, checked against the family's parameters, resolved.

A recipe is a space whose parameters are all single values, with a ``provenance`` block.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lungtune.core import params as parameters
from lungtune.core import yamlfile
from lungtune.core.contract import ContractError
from lungtune.core.family import Family
from lungtune.core.lineage import Segment
from lungtune.core.params import ParamSpec
from lungtune.core.resource import LONGEST, Fidelity
from lungtune.core.scheduler import Scheduler, SchedulerConfig
from lungtune.core.space import COUNTS, SAMPLERS, SearchSpace, check_count
from lungtune.core.synonyms import meant
from lungtune.core.transfer import blocking
from lungtune.core.yamlfile import Block
from lungtune.errors import SpaceError, did_you_mean

_KEYS = {
    "summary": str,
    "family": str,
    "objective": str,
    "sampler": str,
    "trials": int,
    "slots": int,
    "max_slots": int,
    "fidelity": dict,
    "scheduler": object,
    "base": dict,
    "params": dict,
    "start": list,
    "profiles": dict,
    "data": str,
    "seed": int,
    "segments": list,
    "provenance": dict,
}
_PLAIN = {"sampler": "tpe", "trials": 24, "slots": 0, "max_slots": 16, "why": ""}
_PROFILE_KEYS = {"why", *_KEYS} - {"summary", "family", "profiles", "data", "seed", "segments", "provenance"}
_SEGMENT_KEYS = ("params", "seed", "until")
_RANGE_KEYS = {"low", "high", "log", "step"}


_SEED = "a whole number from 0 to 2^32 - 1"


class UnknownSettingError(SpaceError):
    """A space has no setting of that name."""


class _Reader:
    """Reads one file and collects every mistake before raising."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[tuple[int, str]] = []

    def problem(self, line: int, message: str) -> None:
        self.problems.append((line, message))

    def keys(self, block: Block, known: Collection[str], what: str) -> None:
        for key in block:
            if key not in known:
                self.problem(block.lines[key], f"'{key}' is not a {what}.{did_you_mean(key, known)}")

    def types(self, block: Block) -> None:
        for key, wanted in _KEYS.items():
            if key in block and (not isinstance(block[key], wanted) or isinstance(block[key], bool)):
                kind = {dict: "a mapping", list: "a list", int: "a whole number", str: "text"}.get(wanted)
                self.problem(block.lines[key], f"{key} must be {kind or 'text or a mapping'}, but got {block[key]!r}.")
                del block[key]  # the rest is checked as if the key were absent

    def tried(self, line: int, make: Callable[..., Any], *values: Any) -> Any:
        """Return ``make(*values)``; on SpaceError, record the problem and return None."""
        try:
            return make(*values)
        except SpaceError as error:
            self.problem(line, str(error))
            return None

    @property
    def sentences(self) -> list[str]:
        return [f"{self.path}:{line}: {message}" for line, message in sorted(self.problems)]

    def raise_if_any(self) -> None:
        if self.problems:
            raise SpaceError("\n".join(self.sentences))


def load_space(
    path: Path,
    family: Callable[..., Family[Any, Any]],
    scheduler: Callable[[str], type[Scheduler[Any]]],
    *,
    profile: str = "full",
    settings: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """Read, check and resolve a space or recipe file.

    Args:
        path: the YAML file.
        family: returns a family by name, and by name and objective's task (``catalog.family``); raises SpaceError for
            unknown names.
        scheduler: returns a scheduler class by name; raises SpaceError for unknown names.
        profile: ``full`` (the file without changes) or a name under ``profiles:``.
        settings: ``--set`` overrides: a parameter or base field by name, ``trials``, ``sampler``, ``objective``,
            ``fidelity.<field>`` or ``scheduler.<field>``.

    Raises:
        SpaceError: all mistakes at once, each as ``file:line: sentence``.
    """
    block = yamlfile.load(path)
    reader = _Reader(path)
    reader.keys(block, _KEYS, "key of a space")
    reader.types(block)
    for key in ("family", "params"):
        if key not in block.lines:
            reader.problem(1, f"'{key}:' is missing.")
    if "family" not in block or "params" not in block:
        reader.raise_if_any()
    try:
        declared = family(block["family"])
    except ContractError as error:  # it names its own file and line
        raise ContractError("\n".join([*reader.sentences, str(error)])) from error
    except SpaceError as error:
        reader.problem(block.lines["family"], str(error))
        reader.raise_if_any()
        raise
    layers = [(block, block.lines), *_profile(reader, block, profile)]
    named = [str(layer["objective"]) for layer, _ in layers if "objective" in layer]
    task = named[-1].partition(".")[0] if named and "." in named[-1] else ""
    if task not in ("", *(own.name for own in declared.tasks)):
        declared = family(block["family"], task)
    return applied(_resolve(reader, block, layers, declared, scheduler, profile), declared, scheduler, settings or {})


def applied(
    space: SearchSpace,
    family: Family[Any, Any],
    scheduler: Callable[[str], type[Scheduler[Any]]],
    settings: Mapping[str, Any],
) -> SearchSpace:
    """Apply ``--set`` overrides, one after another (:func:`apply`).

    Raises:
        SpaceError: a key is not known or does not take its value; the message has both.
    """
    for key, value in merge_nested(settings).items():
        try:
            space = apply(space, family, scheduler, key, value)
        except SpaceError as error:
            raise SpaceError(f"--set {key}={value}: {error}") from error
    return space


def _profile(reader: _Reader, block: Block, profile: str) -> list[tuple[Block, dict[str, int]]]:
    profiles = block.get("profiles", {})
    for name, body in profiles.items():
        if not isinstance(body, Block):
            reader.problem(profiles.lines[name], f"profile '{name}' must be a mapping, but got {body!r}.")
        else:
            reader.keys(body, _PROFILE_KEYS, f"key of profile '{name}'")
            reader.types(body)
    if profile == "full" and "full" not in profiles:
        return []
    if profile not in profiles:
        known = {"full", *profiles}
        reader.problem(
            block.lines.get("profiles", 1), f"there is no profile '{profile}'.{did_you_mean(profile, known)}"
        )
    body = profiles.get(profile)
    return [(body, body.lines)] if isinstance(body, Block) else []


def _resolve(
    reader: _Reader,
    block: Block,
    layers: list[tuple[Block, dict[str, int]]],
    family: Family[Any, Any],
    scheduler: Callable[[str], type[Scheduler[Any]]],
    profile: str,
) -> SearchSpace:
    param_specs, base_specs = parameters.specs(family.Params), parameters.specs(family.Base)
    axes: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {name: spec.default for name, spec in param_specs.items()}
    base: dict[str, Any] = {name: spec.default for name, spec in base_specs.items()}
    plain: dict[str, Any] = dict(_PLAIN)
    objective = family.objective()
    fidelity: dict[str, Any] = {"max": 3.0, "min": 1 / 3}
    start: list[Mapping[str, Any]] = []
    fidelity_line = 1
    scheduled = SchedulerConfig().changed({}, scheduler)
    every = {**param_specs, **base_specs}
    groups = (
        ("params", param_specs, fixed, "parameter", axis),
        ("base", base_specs, base, "base setting", base_axis),
    )
    for layer, lines in layers:
        plain |= {key: layer[key] for key in plain if key in layer}
        for group, specs, values, what, read in groups:
            for key, value in layer.get(group, {}).items():
                line = layer[group].lines[key]
                if key not in specs:
                    hint = meant(key, specs)
                    reader.problem(line, f"'{key}' is not a {what} of {block['family']}.{hint}")
                    continue
                axes.pop(key, None)
                result = reader.tried(line, read, specs[key], value)
                if isinstance(result, BaseDistribution):
                    axes[key] = result
                    values[key] = start_value(result, values[key])
                elif result is not None:
                    values[key] = result
        if "fidelity" in layer:
            fidelity |= layer["fidelity"]
            fidelity_line = lines["fidelity"]
        if "scheduler" in layer:
            line = lines["scheduler"]
            scheduled = reader.tried(line, scheduled.changed, layer["scheduler"], scheduler) or scheduled
        if "start" in layer:
            start = [_point(reader, every, point, lines["start"]) for point in layer["start"]]
        if "sampler" in layer and layer["sampler"] not in SAMPLERS:
            hint = did_you_mean(str(layer["sampler"]), SAMPLERS)
            reader.problem(lines["sampler"], f"sampler must be known, but got '{layer['sampler']}'.{hint}")
        if "objective" in layer:
            objective = reader.tried(lines["objective"], family.objective, layer["objective"]) or objective
        for key in COUNTS:
            if key in layer:
                reader.tried(lines[key], check_count, key, plain[key])
    if "seed" in block and not _is_seed(block["seed"]):
        reader.problem(block.lines["seed"], f"seed must be {_SEED}, but got {block['seed']!r}.")
    resolved = reader.tried(fidelity_line, Fidelity.of, fidelity)
    segments = _segments(reader, block, family, fixed, axes)
    reader.raise_if_any()
    assert resolved is not None
    return SearchSpace(
        name=reader.path.stem,
        family=block["family"],
        summary=block.get("summary", ""),
        profile=profile,
        objective=objective,
        sampler=plain["sampler"],
        fidelity=resolved,
        scheduler=scheduled,
        base=base,
        fixed={name: value for name, value in fixed.items() if name not in axes},
        axes={name: axes[name] for name in (*base_specs, *param_specs) if name in axes},
        start=tuple(start),
        data=block.get("data"),
        seed=block.get("seed"),
        segments=segments,
        provenance=block.get("provenance", {}),
        why=plain["why"],
        **{key: plain[key] for key in COUNTS},
        text=reader.path.read_text(encoding="utf-8"),
        inert=parameters.inert(family.Base, family.Params),
    )


def _is_seed(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32


def _point(
    reader: _Reader, specs: Mapping[str, ParamSpec], point: Any, line: int, where: str = "start"
) -> dict[str, Any]:
    if not isinstance(point, Block):
        reader.problem(line, f"each entry of start must be a mapping of parameters, but got {point!r}.")
        return {}
    checked = {}
    for key, value in point.items():
        try:
            if key not in specs:
                raise SpaceError(f"{where}: '{key}' is not a parameter.{meant(key, specs)}")
            checked[key] = specs[key].check(value)
        except SpaceError as error:
            reader.problem(point.lines[key], str(error))
    return checked


def _segments(
    reader: _Reader, block: Block, family: Family[Any, Any], fixed: Mapping[str, Any], axes: Collection[str]
) -> tuple[Segment, ...]:
    """Read the segments of a recipe that are trained before its ``params``; parameters not named are those."""
    listed, specs = block.get("segments", []), parameters.specs(family.Params)
    if listed and axes:
        ranges = ", ".join(axes)
        reader.problem(
            block.lines["segments"],
            f"segments are of a recipe, whose every parameter is one value, but these are ranges: {ranges}.",
        )
    result: list[Segment] = []
    begin = 0.0
    for entry in listed:
        if not isinstance(entry, Block) or not isinstance(entry.get("params", {}), Block | dict):
            line = block.lines["segments"]
            reader.problem(line, f"each entry of segments must hold params, seed and until, but got {entry!r}.")
            continue
        line = min(entry.lines.values(), default=block.lines["segments"])
        reader.keys(entry, _SEGMENT_KEYS, "key of a segment")
        chosen = _point(reader, specs, entry.get("params", Block()), line, "segments")
        seed, until = entry.get("seed"), entry.get("until")
        if not _is_seed(seed):
            reader.problem(line, f"segments: seed must be {_SEED}, but got {seed!r}.")
        elif isinstance(until, bool) or not isinstance(until, (int, float)) or not begin < until < LONGEST:
            reader.problem(line, f"segments: until must be a number of passes > {begin:g}, but got {until!r}.")
        else:
            begin = float(until)
            result.append(Segment({**fixed, **chosen}, seed, begin))
    for before, after in itertools.pairwise([*(segment.params for segment in result), fixed] if not axes else []):
        if names := blocking(family, before, after):
            reader.problem(
                block.lines["segments"],
                f"segments: {', '.join(names)} must be the same in all, because the state of one fits no other value.",
            )
    return tuple(result)


def axis(spec: ParamSpec, value: Any) -> BaseDistribution | Any:
    """Turn one entry of ``params`` into a distribution (searched) or a checked value (fixed).

    Raises:
        SpaceError: the entry is not what the parameter takes.
    """
    if (text := spec.noted(value)) is not None:
        return text
    if isinstance(value, list):
        choices = [spec.check(item) for item in value]
        if len(choices) < 2 or len(set(map(repr, choices))) != len(choices):
            raise SpaceError(f"{spec.name}: a list must hold at least two different choices, but got {value!r}.")
        return CategoricalDistribution(choices)
    if not isinstance(value, Mapping):
        try:
            return spec.check(value)
        except SpaceError as error:
            if not isinstance(value, str) or spec.type not in (int, float):
                raise
            raise SpaceError(f"{error} Several values are written [A, B], a range {{low: A, high: B}}.") from error
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
    if not isinstance(log, bool):
        raise SpaceError(f"{spec.name}: log must be true or false, but got {log!r}.")
    if log and (low <= 0 or step is not None):
        raise SpaceError(f"{spec.name}: a log range needs low > 0 and no step, but got low={low:g}, step={step}.")
    if step is not None:
        step = _step(spec, step, low, high)
    if spec.type is int:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _step(spec: ParamSpec, step: Any, low: float, high: float) -> float:
    """Return the step of a range, of which ``high - low`` is a multiple."""
    number = isinstance(step, (int, float)) and not isinstance(step, bool)
    if not number or not 0 < step <= high - low or (spec.type is int and not float(step).is_integer()):
        kind = "a whole number" if spec.type is int else "a number"
        raise SpaceError(f"{spec.name}: step must be {kind} > 0 and <= high - low, but got {step!r}.")
    width, size = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if width % size:
        last = float(Decimal(str(high)) - width % size)
        raise SpaceError(
            f"{spec.name}: high - low must be a multiple of step, but got low={low:g}, high={high:g}, step={step:g}; "
            f"the last step ends at high: {last:g}."
        )
    return float(step)


def base_axis(spec: ParamSpec, value: Any) -> BaseDistribution | Any:
    """Turn one entry of ``base`` into choices or a checked value, as ``axis`` does; a base takes no ranges.

    Raises:
        SpaceError: the entry is not what the base setting takes.
    """
    result = axis(spec, value)
    if isinstance(result, BaseDistribution) and not isinstance(result, CategoricalDistribution):
        raise SpaceError(f"{spec.name} takes a value or a list of choices, not a range: each is a model of its own.")
    return result


def start_value(axis: BaseDistribution, value: Any) -> Any:
    """Return the value of start points that do not name a searched base setting: ``value``, else the first choice."""
    if isinstance(axis, CategoricalDistribution) and value not in axis.choices:
        return axis.choices[0]
    return value


def merge_nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make ``--set`` entries independent of their order.

    All ``fidelity.<field>`` become one entry, because they have to fit together; ``scheduler`` comes before
    ``scheduler.<field>``, because the field is looked up in the scheduler that is chosen.
    """
    names = {key: key.partition("fidelity.") for key in settings}
    rest = {key: value for key, value in settings.items() if not names[key][1]}
    for key, (owner, exists, field) in names.items():
        if exists:
            rest.setdefault(f"{owner}fidelity", {})[field] = settings[key]
    late = {key: value for key, value in rest.items() if "scheduler" in key.split(".")[:-1]}
    return {key: value for key, value in rest.items() if key not in late} | late


def apply(
    space: SearchSpace,
    family: Family[Any, Any],
    scheduler: Callable[[str], type[Scheduler[Any]]],
    key: str,
    value: Any,
) -> SearchSpace:
    """Apply one ``--set``: fix a parameter, change a base setting or one of the space's own fields.

    What is fixed is fixed in the start points too; those that had another value are named in the space's ``notes``.

    Args:
        space: before the change.
        family: the space's family.
        scheduler: returns a scheduler class by name.
        key: see :func:`load_space`.
        value: as read from the command line.

    Raises:
        SpaceError: the key is not known or does not take the value.
    """
    param_specs, base_specs = parameters.specs(family.Params), parameters.specs(family.Base)
    if key in param_specs:
        result = axis(param_specs[key], value)
        axes = {name: axis for name, axis in space.axes.items() if name != key}
        fixed = {name: v for name, v in space.fixed.items() if name != key}
        if isinstance(result, BaseDistribution):
            return dataclasses.replace(space, axes={**axes, key: result}, fixed=fixed)
        single = dataclasses.replace(space, axes=axes, fixed=fixed).with_params({key: result})
        return _fixed_in_start(single, key, result)
    if key in base_specs:
        result = base_axis(base_specs[key], value)
        axes = {name: axis for name, axis in space.axes.items() if name != key}
        if isinstance(result, BaseDistribution):
            base = {**space.base, key: start_value(result, space.base[key])}
            return dataclasses.replace(space, axes={key: result, **axes}, base=base)
        return _fixed_in_start(dataclasses.replace(space, axes=axes, base={**space.base, key: result}), key, result)
    if key == "fidelity" and isinstance(value, Mapping):
        return dataclasses.replace(space, fidelity=Fidelity.of({**dataclasses.asdict(space.fidelity), **value}))
    if key == "scheduler" or key.startswith("scheduler."):
        entry = value if key == "scheduler" else {key.removeprefix("scheduler."): value}
        return dataclasses.replace(space, scheduler=space.scheduler.changed(entry, scheduler))
    if key in COUNTS:
        changed: dict[str, Any] = {key: check_count(key, value)}
        return dataclasses.replace(space, **changed)
    if key == "sampler" and value in SAMPLERS:
        return dataclasses.replace(space, sampler=value)
    if key == "objective":
        return dataclasses.replace(space, objective=family.objective(str(value)))
    known = {*param_specs, *base_specs, *COUNTS, "sampler", "objective", "scheduler"}
    groups = {"fidelity": Fidelity, "scheduler": scheduler(space.scheduler.name).Settings}
    known |= {f"{name}.{f.name}" for name, kind in groups.items() for f in dataclasses.fields(kind)}
    if key == "sampler":
        raise SpaceError(f"{key} must be known.{did_you_mean(str(value), SAMPLERS)}")
    raise UnknownSettingError(f"'{key}' can't be set.{meant(key, known)}")


def _fixed_in_start(space: SearchSpace, key: str, value: Any) -> SearchSpace:
    """Remove a fixed parameter from the start points; note the values that differed."""
    start = tuple({name: v for name, v in point.items() if name != key} for point in space.start)
    changed = [
        f"start point {n} had {point[key]}" for n, point in enumerate(space.start, 1) if point.get(key, value) != value
    ]
    note = f"{key} is fixed at {value} in every trial; {', '.join(changed)}."
    return dataclasses.replace(space, start=start, notes=(*space.notes, note) if changed else space.notes)
