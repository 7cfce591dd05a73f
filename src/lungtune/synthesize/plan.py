"""Plan of a bank: which recipe it is drawn with, how many images of each class, where it lies. Imports no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lungtune import catalog, reopen
from lungtune.core import environment, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.errors import DataError, SpaceError, did_you_mean
from lungtune.tasks.generation import Generation, GenerativeFamily

if TYPE_CHECKING:
    from lungtune.data.dataset import Inspection

DEFAULT = "sd_lora"
"""The space whose last start point makes a bank where there is no recipe."""

UNREAD = ("text", "labels", "table")
"""Optional columns of a split that a bank does not depend on: it keeps its key when the data gain one."""

VERSION = 1
"""Raise when training or drawing changes: older banks are then not gone on with."""

SEED = 9_003
"""Of a bank's noise, so that it has none in common with a search's reports."""


@dataclass(frozen=True)
class Origin:
    """What a bank is made with.

    Attributes:
        name: of the recipe's file, or of the space whose start point it is.
        space: no axes, a seed.
        fidelity: passes it is trained for.
        mark: hash of all that decides the trained weights, but for what lies in the base's files.
        path: of the recipe; None of a start point.
        profile: of the space's start point.
    """

    name: str
    space: SearchSpace
    fidelity: float
    mark: str
    path: Path | None = None
    profile: str = ""


@dataclass(frozen=True)
class Plan:
    """A bank to draw.

    Attributes:
        split: of the data.
        origin: what the images are drawn with.
        wanted: least images of each class.
        folder: of the bank.
        key: hash of all that decides the images.
        mark: hash of all that decides the trained generator.
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
        """Begin the bank, or open the one that lies in the folder."""
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
    """Return what :func:`synthesize` is asked for."""
    from lungtune.data import dataset

    if path is not None and settings:
        raise SpaceError("--set changes the space sd_lora, but a recipe is given; leave one of them out.")
    if path is not None:
        space, origin = reopen.load(path)
        split = reopen.inspect(space, origin, data, test=False)
        made = Origin(path.stem, space, origin.fidelity, recipe.fingerprint(space, origin.fidelity, origin.split), path)
        return _planned(split, made, per_class, classes, out)
    split = dataset.inspect(data or "phantom", seed=seed)
    if split.audit.problems:
        raise DataError("the data can't be trained on as it is: " + " ".join(split.audit.problems))
    plan = plan_default(split, per_class, classes, profile or catalog.default_profile(DEFAULT, data), out, settings)
    print(f"no recipe was named: the bank is made with {plan.origin.name}", file=sys.stderr, flush=True)
    return plan


def plan_default(
    split: Inspection,
    per_class: int | Mapping[str, int],
    classes: Sequence[str] | None,
    profile: str,
    out: Path | None,
    settings: Mapping[str, Any],
) -> Plan:
    """Return the plan without a recipe: the best one in lungtune's home, else the space's start point."""
    default = default_origin(split, profile, settings)
    made = default if settings else _best(split, default) or default
    return _planned(split, made, per_class, classes, out)


def _planned(
    split: Inspection,
    made: Origin,
    per_class: int | Mapping[str, int],
    classes: Sequence[str] | None,
    out: Path | None,
) -> Plan:
    family = cast("GenerativeFamily[Any, Any]", catalog.family(made.space.family))
    if made.space.objective.task != Generation.name:
        raise SpaceError(
            f"{made.path} must be a recipe of a generator, such as sd_lora's, but is one of {made.space.family}."
        )
    wanted = _wanted(per_class, classes, split.manifest.classes)
    base = parameters.build(family.Base, made.space.base)
    family.check(base)
    mark = mark_of(made, family, base)
    key = _hash(mark, split.manifest.train_hash, SEED)
    folder = (out or paths.home() / "banks" / f"{made.name}-{key[:8]}").absolute()
    return Plan(split, made, family, base, wanted, folder, key, mark)


def _wanted(per_class: int | Mapping[str, int], asked: Sequence[str] | None, known: Sequence[str]) -> dict[str, int]:
    counts = per_class if isinstance(per_class, Mapping) else dict.fromkeys(asked or known, per_class)
    for name in (*(asked or ()), *counts):
        if name not in known:
            raise SpaceError(f"--classes must name classes of the data, but got '{name}'.{did_you_mean(name, known)}")
    return {name: count for name, count in counts.items() if asked is None or name in asked}


def _best(found: Inspection, default: Origin) -> Origin | None:
    """Return the best recipe of a generator for this very split, None when there is none.

    Only recipes that were judged as ``default`` would be are compared: by the same metric and model, with as many
    samples of the same size.
    """
    best: tuple[float, Origin] | None = None
    for path in sorted((paths.home() / "recipes").glob("*.yaml")):
        try:
            space, origin = reopen.load(path)
        except SpaceError:
            continue
        if space.family != default.space.family or not found.manifest.matches(origin.split):
            continue
        if _judged(space) != _judged(default.space):
            continue
        if best is None or space.objective.better(origin.score, best[0]):
            mark = recipe.fingerprint(space, origin.fidelity, origin.split)
            best = origin.score, Origin(path.stem, space, origin.fidelity, mark, path)
    return best[1] if best else None


def _judged(space: SearchSpace) -> tuple[Any, ...]:
    """Return what scores must have in common to be compared."""
    return (space.objective, *(value for name, value in sorted(space.base.items()) if name not in ("weights", "views")))


def default_origin(found: Inspection, profile: str, settings: Mapping[str, Any]) -> Origin:
    """Return the space's last start point, to be trained for its whole length."""
    space = catalog.space(DEFAULT, profile, settings)
    point = {**space.fixed, **(space.start[-1] if space.start else {})}
    made = space.configuration(point)
    fixed = dataclasses.replace(space, axes={}, base=made.base, fixed=made.params, start=(), seed=0, data=found.source)
    split = found.manifest.without(*UNREAD).hash
    mark = recipe.fingerprint(fixed, space.fidelity.max, split)
    return Origin(f"{DEFAULT}-start", fixed, space.fidelity.max, mark, None, profile)


def mark_of(made: Origin, family: GenerativeFamily[Any, Any], base: Any) -> str:
    """Return the hash of all that decides the trained generator."""
    return _hash(made.mark, family.content(base), VERSION)


def _bank(folder: Path, key: str, made: Origin, found: Inspection, size: int) -> SyntheticBank:
    generator = {
        "recipe": made.name,
        "fingerprint": made.mark,
        "family": made.space.family,
        "base": dict(made.space.base),
        "params": dict(made.space.fixed),
        "fidelity": made.fidelity,
        "seed": made.space.seed,
    }
    named = [str(made.path.absolute())] if made.path else ["--data", found.source, "--profile", made.profile]
    command = ["lungtune", "synthesize", *named, "--out", str(folder)]
    return SyntheticBank.create(
        folder,
        key=key,
        generator=generator,
        classes=found.manifest.classes,
        train_hash=found.manifest.train_hash,
        size=size,
        seed=SEED,
        about={"source": found.source, "command": shlex.join(command)},
        versions=environment.describe()["versions"],
    )


def _hash(*decides: Any) -> str:
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()
