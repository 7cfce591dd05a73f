"""Validation of a family's ``Base``, ``Params`` and ``ablation``; part of :mod:`lungtune.core.contract`."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from lungtune.core.params import KEY, ParamSpec
from lungtune.core.space import COUNTS, SPACE
from lungtune.errors import SpaceError, did_you_mean

Breach = tuple[str, str]
"""``file:line``, and the sentence."""


@dataclass(frozen=True)
class Read:
    """Type and range that the training loop accepts of a parameter that it reads.

    Attributes:
        type: of the parameter.
        low: its smallest value, for numbers.
        high: its largest value, for numbers.
        choices: its allowed values, for text.
    """

    type: type
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


LOOP: Mapping[str, Read] = {
    "lr": Read(float, 0.0),
    "weight_decay": Read(float, 0.0),
    "batch_size": Read(int, 1),
    "augmentation": Read(int, 0, 3),
    "optimizer": Read(str, choices=("adamw", "adam", "sgd")),
    "momentum": Read(float, 0.0, 1.0),
    "warmup": Read(float, 0.0, 1.0),
    "warmup_start": Read(float, 0.0, 1.0),
    "lr_schedule": Read(str, choices=("cosine", "constant", "step")),
    "lr_cosine": Read(float, 0.0, 1.0),
    "lr_step": Read(float, 0.0, 1.0),
    "lr_gamma": Read(float, 0.0, 1.0),
}
"""Parameters of every family that the training loop reads; ``lungtune.models.params.Loop`` has them."""

_BASE: Mapping[str, Read] = {"image_size": Read(int, 1)}
_OPTIONAL_BASE: Mapping[str, Read] = {"views": Read(int, 0)}
_SETTINGS = ("objective", "scheduler", "fidelity", SPACE, *COUNTS)
"""Names that are reserved in ``--set`` and space files."""


def breaches(family: Any, here: str) -> Iterator[Breach]:
    """Yield (file:line, sentence) for each thing that does not hold."""
    kind = type(family)
    base = yield from _dataclass(kind, "Base", here, _BASE, _OPTIONAL_BASE)
    params = yield from _dataclass(kind, "Params", here, LOOP, {})
    for name in sorted(base.keys() & params.keys()):
        yield place(kind.Params), f"'{name}' must be a field of Base or of Params, but is one of both. Rename one."
    for name in sorted({*base, *params} & {*_SETTINGS}):
        owner = kind.Params if name in params else kind.Base
        yield place(owner), f"'{name}' can't be a parameter: it is a setting of every search. Rename it."
    ablation = family.ablation
    if not isinstance(ablation, Mapping):
        yield here, f'{kind.__name__}.ablation must map parameters to values, as in {{"lr": 0.0}}, but is {ablation!r}.'
        return
    for name, value in ablation.items():
        if params and name not in params:
            yield here, f"{kind.__name__}.ablation names '{name}', which is no parameter.{did_you_mean(name, params)}"
        elif name in params and (problem := _refusal(params[name], value)):
            yield here, f"{kind.__name__}.ablation: {problem}"


def _dataclass(
    kind: type, name: str, here: str, needed: Mapping[str, Read], optional: Mapping[str, Read]
) -> typing.Generator[Breach, None, dict[str, ParamSpec]]:
    """Yield the breaches of ``Base`` or ``Params``; return the fields that can be read."""
    cls = getattr(kind, name, None)
    subject = f"{kind.__name__}.{name}"
    if not inspect.isclass(cls):
        got = "is missing" if cls is None else f"is {cls!r}"
        yield here, f"{subject} must be a frozen dataclass, but {got}. Write {name} = {name} in {kind.__name__}."
        return {}
    where = place(cls)
    fresh = [each for each in inspect.get_annotations(cls) if not each.startswith("_")]
    if "__dataclass_params__" not in vars(cls) and (fresh or not dataclasses.is_dataclass(cls)):
        yield (
            where,
            f"{subject} must be a frozen dataclass, but is a plain class: write @dataclass(frozen=True) above it.",
        )
        return {}
    if not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        yield where, f"{subject} must be frozen: write @dataclass(frozen=True)."
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    missing = [each for each in needed if each not in fields]
    if missing:
        others = {*fields} - {*needed}
        hints = "".join(hint for each in missing if "Did you mean" in (hint := did_you_mean(each, others)))
        remedy = " Inherit from lungtune.models.params.Loop." if name == "Params" else ""
        names = ", ".join(missing)
        yield where, f"{name} must have what the training loop reads, but lacks {names}.{hints}{remedy}"
    try:
        types = typing.get_type_hints(cls)
    except Exception as error:
        yield where, f"the types of {name} must be readable, but are not: {error}."
        return {}
    specs: dict[str, ParamSpec] = {}
    for field in fields.values():
        if KEY not in field.metadata:
            yield (
                where,
                f"every field of {name} must be declared by lungtune.core.params.param, but '{field.name}' is not.",
            )
            continue
        spec = ParamSpec(field.name, types[field.name], field.default, **field.metadata[KEY])
        problem = _of_spec(spec, {**needed, **optional}.get(field.name))
        if problem:
            yield where, f"{name}.{field.name} {problem}"
        else:
            specs[field.name] = spec
    yield from ((where, f"{name}.{sentence}") for sentence in _owners(specs))
    return specs


def _of_spec(spec: ParamSpec, read: Read | None) -> str:
    """Return what is wrong with one field; empty when nothing is."""
    if spec.type not in (int, float, bool, str):
        return f"must be int, float, bool or str, but is {getattr(spec.type, '__name__', spec.type)}."
    number = spec.type in (int, float)
    if spec.choices is not None and (not isinstance(spec.choices, tuple) or not spec.choices):
        return f'must have a tuple of choices, such as choices=("a", "b"), but has {spec.choices!r}.'
    if number and spec.choices is None and (spec.low is None or spec.high is None):
        return "must have a range: write param(..., low=..., high=...)."
    if not number and (spec.low is not None or spec.high is not None):
        return "takes no range, because it is no number: leave low and high out."
    if spec.low is not None and spec.high is not None and spec.low > spec.high:
        return f"must have low <= high, but has low={spec.low:g}, high={spec.high:g}."
    free = dataclasses.replace(spec, choices=None)
    for value in spec.choices or ():
        if problem := _refusal(free, value):
            return f"has a choice that it does not take: {problem}"
    for what, value in (("default", spec.default), ("neutral", spec.neutral)):
        if (what == "default" or value is not None) and (problem := _refusal(spec, value)):
            return f"has a {what} that it does not take: {problem}"
    if not isinstance(spec.structural, (bool, tuple)):
        return f"must have structural=True, False or a tuple of values, but has {spec.structural!r}."
    for value in () if isinstance(spec.structural, bool) else spec.structural:
        if problem := _refusal(spec, value):
            return f"has a structural value that it does not take: {problem}"
    return "" if read is None else _of_read(spec, read)


def _of_read(spec: ParamSpec, read: Read) -> str:
    """Return why the training loop can't read a parameter; empty when it can."""
    if spec.type is not read.type:
        return f"must be {read.type.__name__}, because the training loop reads it, but is {spec.type.__name__}."
    values = spec.choices or [value for value in (spec.low, spec.high) if value is not None]
    for value in values:
        if read.choices and value not in read.choices:
            return (
                f"must be one of {', '.join(read.choices)}, because the training loop reads it, but may be {value!r}."
            )
        if read.low is not None and value < read.low:
            return f"must be at least {read.low:g}, because the training loop reads it, but may be {value!r}."
        if read.high is not None and value > read.high:
            return f"must be at most {read.high:g}, because the training loop reads it, but may be {value!r}."
    if read.choices and spec.choices is None:
        return f"must have choices among {', '.join(read.choices)}, because the training loop reads it."
    return ""


def _owners(specs: Mapping[str, ParamSpec]) -> Iterable[str]:
    """Yield what is wrong with ``only_with``."""
    for spec in specs.values():
        if spec.only_with is None:
            continue
        if not isinstance(spec.only_with, tuple) or len(spec.only_with) != 2:
            yield f"{spec.name} must have only_with=(field, value), but has {spec.only_with!r}."
            continue
        owner, value = spec.only_with
        if owner not in specs:
            yield f"{spec.name} has only_with of '{owner}', which is no field.{did_you_mean(str(owner), specs)}"
        elif problem := _refusal(specs[owner], value):
            yield f"{spec.name} has only_with of a value that '{owner}' does not take: {problem}"


def _refusal(spec: ParamSpec, value: Any) -> str:
    """Return why a field does not take a value; empty when it does."""
    try:
        spec.check(value)
    except SpaceError as error:
        return str(error)
    return ""


def place(thing: Any) -> str:
    """Return ``file:line`` of a class or a function."""
    thing = inspect.unwrap(thing.__func__ if inspect.ismethod(thing) else thing)
    try:
        return f"{inspect.getsourcefile(thing)}:{max(1, inspect.getsourcelines(thing)[1])}"
    except (OSError, TypeError):
        return f"{getattr(thing, '__module__', thing)}:1"
