"""From a generator's recipe to a bank of synthetic images: trained on the training fold, drawn class by class.

Everything goes on where it stopped when it is called again: the training from its checkpoints, the bank from its list.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lungtune import catalog, reopen
from lungtune.core import environment, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.io import progress, waiting, write_atomic
from lungtune.core.space import SearchSpace
from lungtune.errors import DataError, SpaceError, did_you_mean
from lungtune.report import contact_sheet
from lungtune.retraining import runs
from lungtune.tasks.generation import Generation, GenerativeFamily

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import SyntheticBank
    from lungtune.engine.session import Session
    from lungtune.tasks.generation.evaluator import GenerationEvaluator

DEFAULT = "sd_lora"
"""The space whose last start point makes a bank where there is no recipe."""

_UNREAD = ("text", "labels", "table")
"""Optional columns of a split that a bank does not depend on: it keeps its key when the data gain one."""

_BATCH = 64
"""Images drawn between two notes of what is done."""

_CORES = 8
"""With so many, or fewer, all of them draw (two at 1.7 times the pace of one, the same images); of more, half."""

_SHOWN = 8
VERSION = 1
"""Raise when training or drawing changes: older banks are then not gone on with."""

_SEED = 9_003
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


def synthesize(
    path: Path | None = None,
    per_class: int | Mapping[str, int] = 100,
    classes: Sequence[str] | None = None,
    data: str | None = None,
    profile: str | None = None,
    seed: int = 0,
    out: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Make a bank, or go on with it; return its folder.

    Args:
        path: the recipe; without one, the best recipe of a generator for this very split in lungtune's home that was
            judged as the profile's last start point of the space ``sd_lora`` would be, else that configuration.
        per_class: images of each class the bank should hold at least, or by class.
        classes: only these; default all, or those of ``per_class``.
        data: the data source; with a recipe, only where it lies elsewhere.
        profile: ``demo`` or ``full``, of the space.
        seed: of the split, without a recipe.
        out: folder; by default one in lungtune's home, named after the recipe and all that decides the images.
        settings: changes of the space, such as ``weights``.

    Raises:
        SpaceError: the recipe has mistakes, is none, or is not a generator's.
        DataError: the data have problems or are not the recipe's, or the bank can't be written.
        WeightsError: pretrained weights cannot be had.
        TrialError: the training failed.
    """
    from lungtune.data import dataset

    if path is not None and settings:
        raise SpaceError("--set changes the space sd_lora, but a recipe is given; leave one of them out.")
    if path is not None:
        space, origin = reopen.load(path)
        found = reopen.inspect(space, origin, data, test=False)
        made = Origin(path.stem, space, origin.fidelity, recipe.fingerprint(space, origin.fidelity, origin.split), path)
    else:
        found = dataset.inspect(data or "phantom", seed=seed)
        if found.audit.problems:
            raise DataError("the data can't be trained on as it is: " + " ".join(found.audit.problems))
        default = _default(found, profile or catalog.default_profile(DEFAULT, data), settings or {})
        made = default if settings else _best(found, default) or default
        print(f"no recipe was named: the bank is made with {made.name}", file=sys.stderr, flush=True)
    family = cast("GenerativeFamily[Any, Any]", catalog.family(made.space.family))
    if made.space.objective.task != Generation.name:
        raise SpaceError(
            f"{path} must be a recipe of a generator, such as sd_lora's, but is one of {made.space.family}."
        )
    wanted = _wanted(per_class, classes, found.manifest.classes)
    base = parameters.build(family.Base, made.space.base)
    family.check(base)
    mark = _mark(made, family, base)
    key = _hash(mark, found.manifest.train_hash, _SEED)
    folder = (out or paths.home() / "banks" / f"{made.name}-{key[:8]}").absolute()
    bank = _bank(folder, key, made, found, base.image_size)
    work = paths.home() / "generators" / mark
    work.mkdir(parents=True, exist_ok=True)
    with waiting(work / ".lock", f"draws with this generator ({work})"):
        for entry in bank.drop_damaged():
            print(f"{entry.file} is damaged and is made anew", file=sys.stderr, flush=True)
        if bank.missing(wanted):
            opened = dataset.load(found, family.fields, base.image_size)
            _make(family, base, opened, bank, made, work, wanted)
            _picture(bank, opened)
    return bank.folder


def ship(out: Path | None = None) -> Path:
    """Train the generator of the demo profile for the phantoms' default split anew; return the file to be shipped.

    Args:
        out: folder of the file; by default where it is shipped, in place of what lies there.
    """
    from lungtune.data import dataset
    from lungtune.engine.session import Session
    from lungtune.synthesize import generator

    found = dataset.inspect(catalog.PHANTOM)
    made = _default(found, "demo", {})
    family = cast("GenerativeFamily[Any, Any]", catalog.family(made.space.family))
    base = parameters.build(family.Base, made.space.base)
    folder = out or generator.SHIPPED
    file = folder / f"{_mark(made, family, base)}.safetensors"
    opened = dataset.load(found, family.fields, base.image_size)
    session = Session(family, base, opened, made.space.fidelity, made.space.objective)
    with tempfile.TemporaryDirectory() as work:
        generator.trained(session, made.space, made.fidelity, Path(work), f"the generator {made.name}")
        generator.pack(Path(work), found.manifest.without(*_UNREAD).hash, file)
    for other in generator.SHIPPED.glob("*.safetensors") if out is None else ():
        if other != file:
            other.unlink()
    return file


def _mark(made: Origin, family: GenerativeFamily[Any, Any], base: Any) -> str:
    """Return the hash of all that decides the trained generator."""
    return _hash(made.mark, family.content(base), VERSION)


def _make(
    family: GenerativeFamily[Any, Any],
    base: Any,
    opened: Dataset,
    bank: SyntheticBank,
    made: Origin,
    work: Path,
    wanted: Mapping[str, int],
) -> None:
    """Train the generator, or find it trained, and draw what the bank lacks."""
    from lungtune.engine.session import Session
    from lungtune.synthesize import generator

    assert made.space.seed is not None
    session = Session(family, base, opened, made.space.fidelity, made.space.objective)
    scores = generator.trained(session, made.space, made.fidelity, work, f"the generator {made.name}")
    write_atomic(bank.folder / "generator.json", json.dumps(scores, indent=1).encode())
    run = runs.Run(made.space.seed, work)
    runs.resume(session, made.space, run, made.fidelity)
    _fill(session, bank, run, made, wanted)


def _hash(*decides: Any) -> str:
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


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


def _default(found: Inspection, profile: str, settings: Mapping[str, Any]) -> Origin:
    """Return the space's last start point, to be trained for its whole length."""
    space = catalog.space(DEFAULT, profile, settings)
    point = {**space.fixed, **(space.start[-1] if space.start else {})}
    made = space.configuration(point)
    fixed = dataclasses.replace(space, axes={}, base=made.base, fixed=made.params, start=(), seed=0, data=found.source)
    split = found.manifest.without(*_UNREAD).hash
    mark = recipe.fingerprint(fixed, space.fidelity.max, split)
    return Origin(f"{DEFAULT}-start", fixed, space.fidelity.max, mark, None, profile)


def _bank(folder: Path, key: str, made: Origin, found: Inspection, size: int) -> SyntheticBank:
    from lungtune.data.synthetic_bank import SyntheticBank

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
        seed=_SEED,
        about={"source": found.source, "command": shlex.join(command)},
        versions=environment.describe()["versions"],
    )


def _fill(session: Session, bank: SyntheticBank, run: runs.Run, made: Origin, wanted: Mapping[str, int]) -> None:
    """Draw what the bank still lacks, a batch at a time."""
    import torch

    from lungtune.data.synthetic_bank import Item
    from lungtune.layers.layout import derive_seed

    missing = bank.missing(wanted)
    family = cast("GenerativeFamily[Any, Any]", session.family)
    captions = family.captions(parameters.build(family.Params, made.space.fixed), bank.classes)
    evaluator = cast("GenerationEvaluator", session.evaluators[Generation.name])
    slot = session.runs[run.number].slot
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores if cores <= _CORES else max(_CORES, cores // 2))
    what = f"drawing {len(missing)} images"
    with progress(what, len(missing), line=f"{what} ...", lines=4) as update:
        for first in range(0, len(missing), _BATCH):
            batch = missing[first : first + _BATCH]
            labels = [bank.classes.index(name) for name, _ in batch]
            seeds = [derive_seed(bank.seed, label, index) for label, (_, index) in zip(labels, batch, strict=True)]
            images = evaluator.draw(session.pack, slot, labels, seeds)
            rows = zip(batch, labels, seeds, images, strict=True)
            bank.add([Item(name, index, captions[k], seed, image) for (name, index), k, seed, image in rows])
            update(first + len(batch))


def _picture(bank: SyntheticBank, opened: Dataset) -> None:
    """Write a contact sheet, real images above synthetic ones, class by class."""
    from PIL import Image

    train, rows = opened.train, []
    for k, name in enumerate(bank.classes):
        first = np.flatnonzero(train["label"] == k)[:_SHOWN]
        rows.append((f"{name}, real", np.asarray(train["image"][first])[:, 0]))
        files = [bank.folder / entry.file for entry in bank.entries(name)[:_SHOWN]]
        if files:
            rows.append((f"{name}, synthetic", np.stack([np.asarray(Image.open(file)) for file in files])))
    write_atomic(bank.folder / "samples.png", contact_sheet.contact_sheet(rows, _SHOWN))
