"""Parameters that may change within a trial: those whose change leaves its checkpoint loadable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.params import ParamSpec
from lungtune.core.space import SearchSpace


def transferable(family: Family[Any, Any], space: SearchSpace) -> tuple[str, ...]:
    """Return the searched parameters that may take any value of their axes from one segment to the next.

    Settings of the base never do; structural parameters (``core.params.param``) don't, nor those whose axis holds a
    structural value.

    Args:
        family: the space's family.
        space: of one family; of several, ask for each member.
    """
    specs = parameters.specs(family.Params)
    return tuple(name for name, axis in space.axes.items() if name in specs and _free(specs[name], axis))


def blocking(family: Family[Any, Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the parameters because of which a trial can't go on with ``after`` from a checkpoint of ``before``.

    Args:
        family: of both.
        before: every parameter of the trial that trained the checkpoint, as in the journal.
        after: every parameter of the trial that goes on.
    """
    specs = parameters.specs(family.Params)
    defaults = {name: spec.default for name, spec in specs.items()}  # of parameters that older studies don't have
    old, new = {**defaults, **before}, {**defaults, **after}
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [name for name in changed if name not in specs or not specs[name].keeps_state(old[name], new[name])]


def _free(spec: ParamSpec, axis: BaseDistribution) -> bool:
    if isinstance(spec.structural, bool):
        return not spec.structural
    if isinstance(axis, CategoricalDistribution):
        return not set(axis.choices) & set(spec.structural)
    return not any(axis.low <= value <= axis.high for value in spec.structural)  # type: ignore[attr-defined]
