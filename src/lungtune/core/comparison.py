"""Values at which one parameter of a recipe is compared, and the matching ``retrain --compare`` command."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution

from lungtune.core import params as parameters
from lungtune.core import synthetic, yamlfile
from lungtune.core.family import Family
from lungtune.core.space import SearchSpace
from lungtune.core.synonyms import meant
from lungtune.errors import SpaceError, did_you_mean

MOST = 4
"""Maximum number of values in a suggested command."""

_FORM = "--compare takes NAME=VALUE,VALUE,... such as lr=1e-4,1e-3"


@dataclass(frozen=True)
class Comparison:
    """Values of one parameter; the same recipe is trained with each of them.

    Attributes:
        axis: the parameter's name.
        values: two or more, the recipe's own among them.
        control: the value the others are held against.
        own: the recipe's value.
    """

    axis: str
    values: tuple[Any, ...]
    control: Any
    own: Any

    @property
    def points(self) -> tuple[dict[str, Any], ...]:
        """All values, as start points of a space."""
        return tuple({self.axis: value} for value in self.values)

    @property
    def others(self) -> tuple[Any, ...]:
        """All values but the recipe's own."""
        return tuple(value for value in self.values if value != self.own)


def shown(value: Any) -> str:
    """Write a value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(text: str, space: SearchSpace, family: Family[Any, Any]) -> Comparison:
    """Read ``lambda2=0,0.01,0.1,1``, values as in a space file; the recipe's own is added where it is missing.

    The control is the value that switches off what the parameter adds (``Family.ablation``), else 0 or ``false``,
    else the first of the list. A number that equals the recipe's value in three or more digits means that value.

    Raises:
        SpaceError: there is no such parameter, it does not take a value, or there are fewer than two different ones.
    """
    axis, equals, listed = text.partition("=")
    axis = axis.strip()
    known = parameters.specs(family.Params)
    if not axis or not equals:
        raise SpaceError(f"{_FORM}, but got '{text}'.")
    if axis in parameters.specs(family.Base):
        raise SpaceError(
            f"--compare takes a parameter of {space.family}, but '{axis}' is a setting of its base, which all compared "
            f"models share.{did_you_mean(axis, known)}"
        )
    if axis not in known:
        raise SpaceError(f"'{axis}' is not a parameter of {space.family}.{meant(axis, known)}")
    parsed = yamlfile.parse(f"[{listed}]", f"--compare {axis}")
    if not isinstance(parsed, list) or not parsed:
        raise SpaceError(f"{_FORM}, but got no value of {axis}.")
    spec = known[axis]
    own = getattr(parameters.build(family.Params, space.fixed), axis)
    try:
        checked = [_own_or(spec.check(value), own) for value in parsed]
    except SpaceError as error:
        raise SpaceError(f"--compare: {error}") from error
    values = tuple(dict.fromkeys([*checked, own]))
    if len(values) < 2:
        raise SpaceError(
            f"--compare needs at least two different values of {axis}, but got only {shown(own)}, which is the "
            f"recipe's own; name another."
        )
    if axis in synthetic.NAMES[1:] and not synthetic.Settings.from_mapping(space.fixed).ratio:
        raise SpaceError(
            f"{axis} changes nothing where {synthetic.RATIO} is 0, as in this recipe; compare {synthetic.RATIO}."
        )
    owner, wanted = spec.only_with or ("", None)
    if owner and getattr(parameters.build(family.Params, space.fixed), owner) != wanted:
        raise SpaceError(
            f"{axis} changes nothing unless {owner} is {wanted}, but in this recipe it is {space.fixed.get(owner)}; "
            f"compare {owner}."
        )
    ablation = _ablation(family, space.fixed)
    off = [ablation[axis]] if axis in ablation else []
    off += [0] if spec.type is not str else []
    return Comparison(axis, values, next((value for value in values if value in off), values[0]), own)


def _ablation(family: Family[Any, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Ablation axes of a family, and the additional images of a recipe that has any."""
    axes = dict(family.ablation)
    if synthetic.Settings.from_mapping(params).ratio:
        axes[synthetic.IMAGES] = synthetic.NONE
    return axes


def _own_or(value: Any, own: Any) -> Any:
    if isinstance(value, float) and any(value == float(f"{own:.{digits}g}") for digits in range(3, 17)):
        return own
    return value


def commands(recipe: Path, family: Family[Any, Any], space: SearchSpace, params: Mapping[str, Any]) -> list[str]:
    """Return the ``retrain --compare`` commands of a recipe, one per parameter of its family's ``ablation``.

    With synthetic images, the first command compares them with none and with as many duplicates.

    Args:
        recipe: the file, which need not be there yet.
        family: its family.
        space: what was searched, of this family.
        params: the recipe's parameters.
    """
    result = [question(recipe)] if synthetic.Settings.from_mapping(params).uses_bank else []
    for axis, off in family.ablation.items():
        values = _values(space, axis, off, params.get(axis, off))
        if len(values) > 1:
            listed = ",".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)
            result.append(f"lungtune retrain {recipe} --compare {axis}={listed} --seeds 3")
    return result


def question(recipe: Path | str) -> str:
    """Return the ``retrain --compare`` command that measures the effect of a recipe's synthetic images."""
    return f"lungtune retrain {recipe} --compare {synthetic.QUESTION} --seeds 3"


def _values(space: SearchSpace, axis: str, off: Any, own: Any) -> list[Any]:
    """The control, the recipe's value and its neighbours: decades of a log axis, the choices of a list."""
    searched = space.axes.get(axis)
    more: list[Any] = []
    if isinstance(searched, CategoricalDistribution):
        more = list(searched.choices)
    elif getattr(searched, "log", False):
        low, high = max(searched.low, 1e-3), min(searched.high, 10)  # type: ignore[union-attr]
        centre = math.log10(own if own != off and own > 0 else math.sqrt(low * high)) if low <= high else 0.0
        decades = [power for power in range(-3, 2) if low <= 10.0**power * 1.000001 and 10.0**power <= high * 1.000001]
        apart = [power for power in decades if own == off or abs(power - centre) >= 0.5]
        more = [10.0**power for power in sorted(apart, key=lambda power: abs(power - centre))]
    chosen = list(dict.fromkeys([off, own, *more]))[:MOST]
    numbers = all(isinstance(value, (int, float)) for value in chosen)
    return [off, *sorted(value for value in chosen if value != off)] if numbers else chosen
