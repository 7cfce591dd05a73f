"""From a generator's recipe to a bank of synthetic images: trained on the training fold, drawn class by class.

Everything goes on where it stopped when it is called again: the training from its checkpoints, the bank from its list.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune import catalog, reopen, runs
from lungtune.core import environment, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.journal import write_atomic
from lungtune.core.space import SearchSpace
from lungtune.core.trainable import Generator
from lungtune.errors import DataError, SpaceError, TrialError, did_you_mean
from lungtune.evaluate import sheet

if TYPE_CHECKING:
    from lungtune.data.bank import Bank
    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.training import Session

DEFAULT = "sd_lora"
"""The space whose source configuration makes a bank where there is no recipe."""

_BATCH = 64
"""Images drawn between two notes of what is done."""

_SHOWN = 8
_SEED = 9_003
"""Of a bank's noise, so that it has none in common with a search's reports."""


@dataclass(frozen=True)
class Origin:
    """What a bank is made with.

    Attributes:
        name: of the recipe's file, or of the space whose source configuration it is.
        space: no axes, a seed.
        fidelity: passes it is trained for.
        mark: hash of all that decides the trained weights.
    """

    name: str
    space: SearchSpace
    fidelity: float
    mark: str


def synthesize(
    path: Path | None = None,
    per_class: int = 100,
    classes: Sequence[str] | None = None,
    data: str | None = None,
    profile: str | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> Path:
    """Make a bank, or go on with it; return its folder.

    Args:
        path: the recipe; without one, the best recipe of a generator for this very split in lungtune's home, else the
            source configuration of the space ``sd_lora``.
        per_class: images of each class the bank should hold at least.
        classes: only these; default all.
        data: the data source; with a recipe, only where it lies elsewhere.
        profile: ``demo`` or ``full``, of the source configuration.
        seed: of the split, without a recipe.
        out: folder; by default one in lungtune's home, named after the recipe and all that decides the images.

    Raises:
        SpaceError: the recipe has mistakes, is none, or is not a generator's.
        DataError: the data have problems or are not the recipe's, or the bank can't be written.
        WeightsError: pretrained weights cannot be had.
        TrialError: the training failed.
    """
    from lungtune.data import dataset

    if path is not None:
        space, origin = reopen.load(path)
        found = reopen.inspect(space, origin, data, test=False)
        made = Origin(path.stem, space, origin.fidelity, recipe.fingerprint(space, origin.fidelity, origin.split))
    else:
        found = dataset.inspect(data or "phantom", seed=seed)
        if found.audit.problems:
            raise DataError("the data can't be trained on as it is: " + " ".join(found.audit.problems))
        made = _best(found) or _default(found, profile or ("full" if data else "demo"))
        print(f"no recipe was named: the bank is made with {made.name}", file=sys.stderr, flush=True)
    trainable = catalog.family(made.space.family)
    if not isinstance(trainable, Generator):
        raise SpaceError(
            f"{path} must be a recipe of a generator, such as sd_lora's, but is one of {made.space.family}."
        )
    wanted = _classes(classes, found.manifest.classes)
    base = parameters.build(trainable.Base, made.space.base)
    trainable.check(base)

    from lungtune.nn.capacity import as_searched
    from lungtune.training import Session

    opened = dataset.load(found, base.image_size)
    session = Session(trainable, base, opened, made.space.fidelity, made.space.objective)
    folder = out or paths.home() / "banks" / f"{made.name}-{_key(made, found)[:8]}"
    run = _trained(session, made, as_searched)
    bank = _bank(folder, made, found, base.image_size, run.scores)
    for entry in bank.drop_damaged():
        print(f"{entry.file} is damaged and is made anew", file=sys.stderr, flush=True)
    _fill(session, bank, run, made, dict.fromkeys(wanted, per_class))
    _picture(bank, opened)
    return bank.folder


def _classes(asked: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    for name in asked or ():
        if name not in known:
            raise SpaceError(f"--classes must name classes of the data, but got '{name}'.{did_you_mean(name, known)}")
    return list(asked or known)


def _best(found: Inspection) -> Origin | None:
    """Return the best recipe of a generator for this very split, None when there is none."""
    best: tuple[float, Origin] | None = None
    for path in sorted((paths.home() / "recipes").glob("*.yaml")):
        try:
            space, origin = reopen.load(path)
        except SpaceError:
            continue
        if not isinstance(catalog.family(space.family), Generator) or not found.manifest.matches(origin.split):
            continue
        if best is None or space.objective.better(origin.score, best[0]):
            mark = recipe.fingerprint(space, origin.fidelity, origin.split)
            best = origin.score, Origin(path.stem, space, origin.fidelity, mark)
    return best[1] if best else None


def _default(found: Inspection, profile: str) -> Origin:
    """Return the source configuration, to be trained for its whole length."""
    space = catalog.space(DEFAULT, profile)
    point = {**space.fixed, **(space.start[0] if space.start else {})}
    made = space.configuration(point)
    fixed = dataclasses.replace(space, axes={}, base=made.base, fixed=made.params, start=(), seed=0, data=found.source)
    mark = recipe.fingerprint(fixed, space.fidelity.max, found.manifest.hash)
    return Origin(f"{DEFAULT}-source", fixed, space.fidelity.max, mark)


def _key(made: Origin, found: Inspection) -> str:
    """Return a hash of all that decides a bank's images."""
    decides = [made.mark, found.manifest.train_hash, _SEED]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()


def _trained(session: Session, made: Origin, as_searched: Any) -> runs.Run:
    """Train the generator, or find it trained; it stays in the session."""
    assert made.space.seed is not None
    run = runs.Run(made.space.seed, paths.home() / "generators" / made.mark)
    as_searched()
    runs.train(session, made.space, [run], made.fidelity, f"training the generator {made.name}")
    if run.failure is not None:
        raise TrialError("error", f"the generator {made.name} failed: {run.failure}")
    runs.resume(session, made.space, run, made.fidelity)
    return run


def _bank(folder: Path, made: Origin, found: Inspection, size: int, scores: Mapping[str, float]) -> Bank:
    from lungtune.data.bank import Bank

    generator = {
        "recipe": made.name,
        "fingerprint": made.mark,
        "family": made.space.family,
        "base": dict(made.space.base),
        "params": dict(made.space.fixed),
        "fidelity": made.fidelity,
        "seed": made.space.seed,
    }
    return Bank.create(
        folder,
        key=_key(made, found),
        generator=generator,
        classes=found.manifest.classes,
        train_hash=found.manifest.train_hash,
        size=size,
        seed=_SEED,
        about={"source": found.source, "validation": dict(scores)},
        versions=environment.describe()["versions"],
    )


def _fill(session: Session, bank: Bank, run: runs.Run, made: Origin, wanted: Mapping[str, int]) -> None:
    """Draw what the bank still lacks, a batch at a time."""
    import torch

    from lungtune.data.shelf import Item
    from lungtune.nn.slots import mix

    missing = bank.missing(wanted)
    values = parameters.build(session.trainable.Params, made.space.fixed)
    captions = session.trainable.captions(values, bank.classes)
    slot = session.runs[run.number].slot
    torch.set_num_threads(os.cpu_count() or 1)  # training was bound to add up as the search did; drawing is not
    with _bar(f"drawing {len(missing)} images", len(missing)) as told:
        for first in range(0, len(missing), _BATCH):
            batch = missing[first : first + _BATCH]
            labels = [bank.classes.index(name) for name, _ in batch]
            seeds = [mix(bank.seed, label, index) for label, (_, index) in zip(labels, batch, strict=True)]
            images = session.examiner.draw(session.pack, slot, labels, seeds)
            rows = zip(batch, labels, seeds, images, strict=True)
            bank.add([Item(name, index, captions[k], seed, image) for (name, index), k, seed, image in rows])
            told(first + len(batch))


def _picture(bank: Bank, opened: Dataset) -> None:
    """Write a contact sheet, real images above synthetic ones, class by class."""
    from PIL import Image

    rows = []
    for k, name in enumerate(bank.classes):
        rows.append((f"{name}, real", np.asarray(opened.train.images[opened.train.labels == k][:_SHOWN])))
        files = [bank.folder / entry.file for entry in bank.entries(name)[:_SHOWN]]
        if files:
            rows.append((f"{name}, synthetic", np.stack([np.asarray(Image.open(file)) for file in files])))
    write_atomic(bank.folder / "samples.png", sheet.contact_sheet(rows, _SHOWN))


@contextmanager
def _bar(what: str, total: int) -> Iterator[Any]:
    """Show progress on a terminal, one line in a pipe; yield the function that is told how many are done."""
    if not sys.stderr.isatty():
        print(f"{what} ...", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
