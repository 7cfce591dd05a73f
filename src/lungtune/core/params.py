"""Family parameters: typed, bounded, documented fields of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lungtune.core.synonyms import meant
from lungtune.errors import SpaceError, did_you_mean

KEY = "lungtune"

MOST = 1_000_000
"""Largest count that a user may set: trials, slots, images of a class."""


_HUGE = 2.0**63
"""No parameter is that large; ranges between larger numbers overflow."""


@dataclass(frozen=True)
class Notation:
    """Further values of a text parameter beside its choices.

    Attributes:
        form: how they are written, for messages.
        read: returns a value as canonical text, which it returns unchanged; None if it is of another form; raises
            SpaceError for values of the form that are not accepted.
    """

    form: str
    read: Callable[[Any], str | None]


@dataclass(frozen=True)
class ParamSpec:
    """Specification of a field: type, default, bounds or choices, unit and meaning.

    Attributes:
        neutral: value at which the field changes nothing against a family without it; None: there is none.
        only_with: another field and the value of it without which this one changes nothing; None: it always acts.
        structural: see :func:`param`.
        notation: further values beside ``choices``; None: there are none.
    """

    name: str
    type: type
    default: Any
    low: float | None
    high: float | None
    choices: tuple[Any, ...] | None
    unit: str
    help: str
    neutral: Any = None
    only_with: tuple[str, Any] | None = None
    structural: bool | tuple[Any, ...] = False
    notation: Notation | None = None

    def keeps_state(self, before: Any, after: Any) -> bool:
        """True if a trial that trained with ``before`` can go on with ``after`` from its checkpoint."""
        if before == after:
            return True
        if isinstance(self.structural, bool):
            return not self.structural
        return before not in self.structural and after not in self.structural

    def check(self, value: Any) -> Any:
        """Return ``value`` as this field's type.

        Raises:
            SpaceError: the value has another type, is not finite, or is outside bounds or choices.
        """
        if (text := self.noted(value)) is not None:
            return text
        value = self._coerce(value)
        if self.choices is not None and value not in self.choices:
            hint = did_you_mean(str(value), map(str, self.choices))
            further = f", or {self.notation.form}" if self.notation else ""
            raise SpaceError(
                f"{self.name} must be one of {', '.join(map(str, self.choices))}{further}, but got {value!r}.{hint}"
            )
        if self.low is not None and value < self.low:
            raise SpaceError(f"{self.name} >= {self.low:g} must hold, but got {value!r}.")
        if self.high is not None and value > self.high:
            raise SpaceError(f"{self.name} <= {self.high:g} must hold, but got {value!r}.")
        return value

    def noted(self, value: Any) -> str | None:
        """Return a value in this field's notation as text; None if it is of another form, or there is no notation.

        Raises:
            SpaceError: it is of the notation's form, but not accepted.
        """
        if self.notation is None:
            return None
        try:
            return self.notation.read(value)
        except SpaceError as error:
            raise SpaceError(f"{self.name}: {error}") from error

    def _coerce(self, value: Any) -> Any:
        kind = {int: "a whole number", float: "a number", str: "text"}.get(self.type)
        wrong = SpaceError(f"{self.name} must be {kind}, but got {value!r}.")
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise SpaceError(f"{self.name} must be true or false, but got {value!r}.")
        if isinstance(value, bool):
            raise wrong
        if self.type in (int, float) and isinstance(value, (int, float)):
            if not -_HUGE < value < _HUGE:
                limit = "" if isinstance(value, int) or math.isfinite(value) else "finite and "
                raise SpaceError(f"{self.name} must be {limit}between -2^63 and 2^63, but got {value!r}.")
            if self.type is float:
                return float(value)
            if float(value).is_integer():
                return int(value)
        if self.type is str and isinstance(value, (str, int, float)):
            return str(value)
        raise wrong


def param(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] | None = None,
    unit: str = "",
    help: str = "",
    neutral: Any = None,
    only_with: tuple[str, Any] | None = None,
    structural: bool | tuple[Any, ...] = False,
    notation: Notation | None = None,
) -> Any:
    """Declare one field of a ``Params`` or ``Base`` dataclass (``int``, ``float``, ``bool`` or ``str``).

    Args:
        default: value of fields that are not set.
        low: smallest value.
        high: largest value.
        choices: all values.
        unit: such as ``px``.
        help: one line for recipes and documentation.
        neutral: at this value it is left out of fingerprints and identities, so that those from before the field
            existed stay valid.
        only_with: ``(field, value)``: it changes nothing, and is left out likewise, unless that field has that value.
        structural: it decides the shapes of what is trained, or the meaning of the optimiser's state: a trial can't
            go on from a checkpoint that was trained with another value. A tuple: only a change from or to one of these
            values is structural.
        notation: of values beside ``choices``, for ``str``.
    """
    meta: dict[str, Any] = {"low": low, "high": high, "choices": choices, "unit": unit, "help": help}
    meta |= {"neutral": neutral, "only_with": only_with, "structural": structural, "notation": notation}
    return dataclasses.field(default=default, metadata={KEY: meta})


def inert(*classes: type) -> dict[str, dict[str, Any]]:
    """Return the conditions (``neutral``, ``only_with``) under which each field is inert, by name. JSON-able."""
    rules: dict[str, dict[str, Any]] = {}
    for spec in (spec for cls in classes for spec in specs(cls).values()):
        rule: dict[str, Any] = {} if spec.neutral is None else {"neutral": spec.neutral}
        rule |= {"only_with": list(spec.only_with)} if spec.only_with else {}
        if rule:
            rules[spec.name] = rule
    return rules


def acting(values: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return those of ``values`` that change something, by the ``rules`` of :func:`inert`."""

    def acts(name: str, value: Any) -> bool:
        rule = rules.get(name, {})
        if "neutral" in rule and value == rule["neutral"]:
            return False
        owner, wanted = rule.get("only_with", (None, None))
        return owner is None or values.get(owner) == wanted

    return {name: value for name, value in values.items() if acts(name, value)}


def specs(cls: type) -> dict[str, ParamSpec]:
    """Return the fields of a ``Params`` or ``Base`` dataclass by name."""
    types = typing.get_type_hints(cls)
    return {
        field.name: ParamSpec(field.name, types[field.name], field.default, **field.metadata[KEY])
        for field in dataclasses.fields(cls)
    }


def derived(cls: type, added: type | None, targets: Collection[str]) -> Any:
    """Return ``cls`` with the fields of ``added``, and without those that act with other targets only.

    Args:
        cls: a frozen dataclass. A parent of it may have ``target``: the kind of field without which its own fields
            change nothing.
        added: another one.
        targets: kinds of the targets there are.
    """
    idle = {
        name
        for parent in cls.__mro__
        if vars(parent).get("target") not in (None, *targets)
        for name in inspect.get_annotations(parent)
    }
    kinds = [cls, *([added] if added else [])]
    fields = {
        each.name: (each.name, typing.get_type_hints(kind)[each.name], _copied(each))
        for kind in kinds
        for each in dataclasses.fields(kind)
        if each.name not in idle
    }
    own = {
        name: value
        for parent in reversed(cls.__mro__[:-1])
        for name, value in vars(parent).items()
        if not name.startswith("__") and name not in idle and name not in fields
    }
    result = dataclasses.make_dataclass(cls.__name__, list(fields.values()), namespace=own, frozen=True)
    result.__module__ = cls.__module__
    return result


def _copied(each: dataclasses.Field[Any]) -> Any:
    return dataclasses.field(default=each.default, metadata=each.metadata)


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """Build ``cls`` from ``values``; fields not named keep their default.

    Raises:
        SpaceError: an unknown name or a value its field does not accept.
    """
    known = specs(cls)
    for name in values:
        if name not in known:
            raise SpaceError(f"'{name}' is not a parameter of this family.{meant(name, known)}")
    return cls(**{name: known[name].check(value) for name, value in values.items()})
