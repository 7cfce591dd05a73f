"""Ray Tune's sample objects and Optuna's distributions, one from the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from ray import tune

from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError


def domain(axis: BaseDistribution) -> Any:
    """Return Tune's sample object of an axis. Tune's ranges of integers exclude their end; ``high`` is kept."""
    if isinstance(axis, CategoricalDistribution):
        return tune.choice(list(axis.choices))
    if isinstance(axis, IntDistribution):
        if axis.log:
            return tune.lograndint(axis.low, axis.high + 1)
        return tune.qrandint(axis.low, axis.high, axis.step) if axis.step > 1 else tune.randint(axis.low, axis.high + 1)
    assert isinstance(axis, FloatDistribution)
    if axis.log:
        return tune.loguniform(axis.low, axis.high)
    return tune.quniform(axis.low, axis.high, axis.step) if axis.step else tune.uniform(axis.low, axis.high)


def param_space(space: SearchSpace) -> dict[str, Any]:
    """Return the axes of a space as Tune's sample objects by name.

    Raises:
        SpaceError: it is a search over several spaces, whose axes depend on one another.
    """
    if space.members:
        raise SpaceError("Ray Tune's param_space holds one space, but got several; search each of its own.")
    return {name: domain(axis) for name, axis in space.axes.items()}


def holds(axis: BaseDistribution, value: Any) -> bool:
    """True if an axis can take a value."""
    if isinstance(axis, CategoricalDistribution):
        return value in axis.choices
    assert isinstance(axis, (IntDistribution, FloatDistribution))
    return isinstance(value, (int, float)) and axis.low <= value <= axis.high


def middle(axis: BaseDistribution) -> Any:
    """Return the middle of a range, geometric where it is logarithmic; the first of choices."""
    if isinstance(axis, CategoricalDistribution):
        return axis.choices[0]
    assert isinstance(axis, (IntDistribution, FloatDistribution))
    return accepted(axis, math.sqrt(axis.low * axis.high) if axis.log else (axis.low + axis.high) / 2)


def accepted(axis: BaseDistribution, value: Any) -> Any:
    """Return the value of an axis that is closest to ``value``, which a scheduler of Tune perturbed."""
    if isinstance(axis, CategoricalDistribution):
        return value if value in axis.choices else axis.choices[0]
    assert isinstance(axis, (IntDistribution, FloatDistribution))
    value = min(max(value, axis.low), axis.high)
    if axis.step:
        value = axis.low + round((value - axis.low) / axis.step) * axis.step
    return round(value) if isinstance(axis, IntDistribution) else float(min(value, axis.high))


def accepted_params(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return perturbed parameters within the ranges of the space."""
    return {name: accepted(space.axes[name], value) if name in space.axes else value for name, value in params.items()}
