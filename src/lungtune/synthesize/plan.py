"""Plan of a bank: generator, number of images of each class, folder. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lungtune import catalog, reopen
from lungtune.core import environment, io, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.errors import DataError, SpaceError, did_you_mean
from lungtune.tasks.generation import Generation, GenerativeFamily

if TYPE_CHECKING:
    from lungtune.data.dataset import Inspection

DEFAULT = "sd_lora"
"""Space whose last start point is the generator without a recipe."""

UNREAD = ("text", "labels", "table")
"""Optional columns of a split that a bank's key does not depend on."""

VERSION = 1
"""Version of training and sampling, part of a bank's key; increase it when they change."""

SEED = 9_003
"""Seed of a bank's noise, distinct from those of a search's reports."""


@dataclass(frozen=True)
class Origin:
    """Generator of a bank: a recipe, or a start point of a space.

    Attributes:
        name: stem of the recipe's file, or derived from the space's name.
        space: its configuration: no axes, a seed.
        fidelity: passes of its training.
        mark: hash of everything the trained weights depend on, except the content of the base's files.
        path: of the recipe; None for a start point.
        profile: of the space, for a start point; else empty.
    """

    name: str
    space: SearchSpace
    fidelity: float
    mark: str
    path: Path | None = None
    profile: str = ""


@dataclass(frozen=True)
class Plan:
    """Plan of a bank.

    Attributes:
        split: of the data.
        origin: the generator.
        family: of the generator.
        base: of the generator, an instance of ``family.Base``.
        wanted: least number of images of each class.
        folder: of the bank.
        key: hash of everything the images depend on.
        mark: hash of everything the trained generator depends on, files of the base included.
    """

    split: Inspection
    origin: Origin
    family: GenerativeFamily[Any, Any]
    base: Any
    wanted: Mapping[str, int]
    folder: Path
    key: str
    mark: str

    def bank(self) -> SyntheticBank:
        """Create the bank, or open the existing one in the folder."""
        return _bank(self.folder, self.key, self.origin, self.split, self.base.image_size)


def plan(
    path: Path | None,
    per_class: int | Mapping[str, int],
    classes: Sequence[str] | None,
    data: str | None,
    profile: str | None,
    seed: int,
    out: Path | None,
    settings: Mapping[str, Any],
) -> Plan:
    """Return the plan for the arguments of :func:`synthesize`; see there."""
    from lungtune.data import dataset

    if path is not None and settings:
        raise SpaceError("--set changes the space sd_lora, but a recipe is given; leave one of them out.")
    if path is not None:
        space, origin = reopen.load(path)
        split = reopen.inspect(space, origin, data, test=False)
        mark = recipe.fingerprint(space, origin.fidelity, origin.split)
        return _planned(split, Origin(path.stem, space, origin.fidelity, mark, path), per_class, classes, out)
    split = dataset.inspect(data or "phantom", seed=seed)
    if split.audit.problems:
        raise DataError("the data can't be trained on as it is: " + " ".join(split.audit.problems))
    for guess in split.audit.unconfirmed:
        io.log_stderr(f"note: {guess}")
    plan = plan_default(split, per_class, classes, profile or catalog.default_profile(DEFAULT, data), out, settings)
    io.log_stderr(f"no recipe was named: the bank is generated with {plan.origin.name}")
    return plan


def plan_default(
    split: Inspection,
    per_class: int | Mapping[str, int],
    classes: Sequence[str] | None,
    profile: str,
    out: Path | None,
    settings: Mapping[str, Any],
) -> Plan:
    """Return the plan without a recipe: with the best one in lungtune's home, else with the space's start point."""
    default = default_origin(split, profile, settings)
    origin = default if settings else _best(split, default) or default
    return _planned(split, origin, per_class, classes, out)


def _planned(
    split: Inspection,
    origin: Origin,
    per_class: int | Mapping[str, int],
    classes: Sequence[str] | None,
    out: Path | None,
) -> Plan:
    family = cast("GenerativeFamily[Any, Any]", catalog.family(origin.space.family))
    if origin.space.objective.task != Generation.name:
        raise SpaceError(
            f"{origin.path} must be a recipe of a generator, such as sd_lora's, but is one of {origin.space.family}."
        )
    wanted = _wanted(per_class, classes, split.manifest.classes)
    base = parameters.build(family.Base, origin.space.base)
    family.check(base)
    mark = mark_of(origin, family, base)
    key = _hash(mark, split.manifest.train_hash, SEED)
    folder = (out or paths.home() / "banks" / f"{origin.name}-{key[:8]}").absolute()
    return Plan(split, origin, family, base, wanted, folder, key, mark)


def _wanted(per_class: int | Mapping[str, int], asked: Sequence[str] | None, known: Sequence[str]) -> dict[str, int]:
    counts = per_class if isinstance(per_class, Mapping) else dict.fromkeys(asked or known, per_class)
    for name in (*(asked or ()), *counts):
        if name not in known:
            raise SpaceError(f"--classes must name classes of the data, but got '{name}'.{did_you_mean(name, known)}")
    return {name: count for name, count in counts.items() if asked is None or name in asked}


def _best(split: Inspection, default: Origin) -> Origin | None:
    """Return the best recipe of a generator for the same split; None if there is none.

    Compares only recipes whose scores are comparable with those of ``default``: same metric and model, same number and
    size of samples.
    """
    best: tuple[float, Origin] | None = None
    for path in sorted((paths.home() / "recipes").glob("*.yaml")):
        try:
            space, origin = reopen.load(path)
        except SpaceError:
            continue
        if space.family != default.space.family or not split.manifest.matches(origin.split):
            continue
        if _comparable(space) != _comparable(default.space):
            continue
        if best is None or space.objective.better(origin.score, best[0]):
            mark = recipe.fingerprint(space, origin.fidelity, origin.split)
            best = origin.score, Origin(path.stem, space, origin.fidelity, mark, path)
    return best[1] if best else None


def _comparable(space: SearchSpace) -> tuple[Any, ...]:
    """Return the settings that must be equal for scores to be comparable."""
    return (space.objective, *(value for name, value in sorted(space.base.items()) if name not in ("weights", "views")))


def default_origin(split: Inspection, profile: str, settings: Mapping[str, Any]) -> Origin:
    """Return the space's last start point, for training at full fidelity."""
    space = catalog.space(DEFAULT, profile, settings)
    point = {**space.fixed, **(space.start[-1] if space.start else {})}
    chosen = space.configuration(point)
    fixed = dataclasses.replace(
        space, axes={}, base=chosen.base, fixed=chosen.params, start=(), seed=0, data=split.source
    )
    mark = recipe.fingerprint(fixed, space.fidelity.max, split.manifest.without(*UNREAD).hash)
    return Origin(f"{DEFAULT}-start", fixed, space.fidelity.max, mark, None, profile)


def mark_of(origin: Origin, family: GenerativeFamily[Any, Any], base: Any) -> str:
    """Return the hash of everything the trained generator depends on, files of the base included."""
    return _hash(origin.mark, family.content(base), VERSION)


def _bank(folder: Path, key: str, origin: Origin, split: Inspection, size: int) -> SyntheticBank:
    generator = {
        "recipe": origin.name,
        "fingerprint": origin.mark,
        "family": origin.space.family,
        "base": dict(origin.space.base),
        "params": dict(origin.space.fixed),
        "fidelity": origin.fidelity,
        "seed": origin.space.seed,
    }
    named = [str(origin.path.absolute())] if origin.path else ["--data", split.source, "--profile", origin.profile]
    command = ["lungtune", "synthesize", *named, "--out", str(folder)]
    return SyntheticBank.create(
        folder,
        key=key,
        generator=generator,
        classes=split.manifest.classes,
        train_hash=split.manifest.train_hash,
        size=size,
        seed=SEED,
        about={"source": split.source, "command": shlex.join(command)},
        versions=environment.describe()["versions"],
    )


def _hash(*decides: Any) -> str:
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
