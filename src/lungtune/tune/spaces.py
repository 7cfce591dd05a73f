"""Trainable and parameter space of a lungtune space."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lungtune import catalog
from lungtune.core import paths, terminal
from lungtune.core.space import SearchSpace
from lungtune.core.transfer import transferable
from lungtune.search import preparation, study_data
from lungtune.search.backends.ray_tune import domains
from lungtune.search.backends.ray_tune.trainable import LungtuneTrainable, subclass


def trainable(
    space: str,
    data: str | None = None,
    profile: str | None = None,
    *,
    study: str | None = None,
    seed: int | None = None,
    bank: str | Path | None = None,
    **settings: Any,
) -> type[LungtuneTrainable]:
    """Return a Ray Tune ``Trainable`` of a space's model family, after the checks of ``lungtune search``.

    It belongs to a study, begun here: data split, checkpoints, and the journal that :func:`record` writes.

    Args:
        space: name of a shipped or own space, or a YAML file.
        data: source, as for ``--data``; by default the built-in phantoms.
        profile: ``demo`` or ``full``; by default ``full`` on real data.
        study: its name; by default the space's, numbered.
        seed: of the split and of trials (default 0).
        bank: folder of synthetic images, where ``synthetic_ratio`` is above 0.
        settings: as for ``--set``, such as ``weights="DIR"``.

    Raises:
        UserError: a sentence on what must be mended; nothing was begun.
    """
    options = preparation.Options(
        space=space,
        data=data,
        profile=profile,
        study=study,
        seed=seed,
        settings=settings,
        bank=Path(bank) if bank is not None else None,
    )
    prepared = preparation.prepare(options, terminal.console(stderr=True), lambda space: None)
    prepared.study.release()
    return subclass(prepared.space.name, prepared.study.folder, paths.own_folders())


def param_space(space: str, data: str | None = None, profile: str | None = None, **settings: Any) -> dict[str, Any]:
    """Return the axes of a space as Tune's sample objects by name; see :func:`trainable` for the arguments.

    An axis left out has the value of the space's first start point, or the middle of its range where that is outside
    it; everything else is as fixed in the space. ``seed`` may be added: the seed of a trial, which by default follows
    from its configuration.

    Raises:
        SpaceError: there is no such space, a setting is not accepted, or the space is several.
    """
    return domains.param_space(_space(space, data, profile, settings))


def mutations(space: str, data: str | None = None, profile: str | None = None, **settings: Any) -> dict[str, Any]:
    """Return ``hyperparam_mutations`` of PBT: the axes whose change leaves a trial's checkpoint loadable.

    The other axes, such as the LoRA rank, pass from donor to copy with the weights. See :func:`trainable` for the
    arguments, and :func:`within`.

    Raises:
        SpaceError: as :func:`param_space`.
    """
    searched = _space(space, data, profile, settings)
    names = transferable(catalog.family(searched.family, searched.objective.task), searched)
    domains_of = domains.param_space(searched)
    choices = {name: list(getattr(searched.axes[name], "choices", ())) for name in names}
    return {name: choices[name] or domains_of[name] for name in names}


def within(
    space: str, data: str | None = None, profile: str | None = None, **settings: Any
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return ``custom_explore_fn`` of PBT and PB2: perturbed values are moved into the ranges of the space.

    See :func:`trainable` for the arguments.
    """
    searched = _space(space, data, profile, settings)
    return functools.partial(domains.accepted_params, searched)


def _space(space: str, data: str | None, profile: str | None, settings: dict[str, Any]) -> SearchSpace:
    """Return a space as :func:`trainable` searches it: for the task that the data have targets of."""
    loaded = catalog.space(space, profile or catalog.default_profile(space, data), settings)
    source = data or loaded.data or "phantom"
    return catalog.fitted(loaded, study_data.traits(source, study_data.index(source)))
