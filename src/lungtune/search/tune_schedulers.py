"""Limits of Ray Tune's schedulers, checked before anything starts. Imports no ray."""

from __future__ import annotations

import importlib.util

from optuna.distributions import CategoricalDistribution

from lungtune import catalog, schedulers
from lungtune.core.scheduler import TuneScheduler
from lungtune.core.space import SearchSpace
from lungtune.core.transfer import transferable
from lungtune.errors import SpaceError


def kind(space: SearchSpace) -> type[TuneScheduler[object]] | None:
    """Return the class of a space's scheduler if it is one of Tune."""
    scheduler = schedulers.get(space.scheduler.name)
    return scheduler if issubclass(scheduler, TuneScheduler) else None


def decides(space: SearchSpace) -> bool:
    """True if a scheduler of Tune decides on the trials of a space."""
    return kind(space) is not None


def perturbable(space: SearchSpace) -> list[str]:
    """Return the axes that PBT or PB2 perturbs: those whose change leaves a checkpoint loadable; for PB2, numbers.

    The other ones pass from donor to copy with the weights.
    """
    axes = list(transferable(catalog.family(space.family, space.objective.task), space))
    if space.scheduler.name == "pb2":
        axes = [name for name in axes if not isinstance(space.axes[name], CategoricalDistribution)]
    return axes


def planned(space: SearchSpace, trials: int) -> list[tuple[float, float, float]]:
    """Return ``Fidelity.planned``; every trial of a population (PBT) is trained to the full length."""
    scheduler = kind(space)
    whole = scheduler is not None and scheduler.perturbs
    return space.fidelity.planned(trials, trials if whole else len(space.start))


def check(space: SearchSpace) -> None:
    """Refuse what a scheduler of Tune cannot run.

    Raises:
        SpaceError: the sentence.
    """
    scheduler = kind(space)
    if scheduler is None:
        return
    name = space.scheduler.name
    if space.members:
        raise SpaceError(f"scheduler {name} takes one space, but got {len(space.members)}; search each of its own.")
    if scheduler.suggests:
        _check_bohb(name)
    if not scheduler.perturbs:
        return
    for axis in space.axes:
        if axis in space.base:
            raise SpaceError(
                f"scheduler {name} changes parameters within a trial, but '{axis}' is a setting of the base, which is "
                f"loaded once; fix it with --set {axis}=VALUE."
            )
    if not perturbable(space):
        what = "number" if name == "pb2" else "parameter"
        raise SpaceError(f"scheduler {name} needs a searched {what} to perturb, but {space.name} has none.")


def _check_bohb(name: str) -> None:
    for package in ("hpbandster", "ConfigSpace"):
        if importlib.util.find_spec(package) is None:
            raise SpaceError(
                f"scheduler {name} needs the packages hpbandster and ConfigSpace, but {package} is not installed; "
                "pip install 'lungtune[bohb]', or choose scheduler hyperband."
            )
