"""From a generator's recipe to a bank of synthetic images: trained on the training fold, drawn class by class.

Everything goes on where it stopped when it is called again: the training from its checkpoints, the bank from its list.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core import paths
from lungtune.core.io import progress, waiting, write_atomic
from lungtune.data.synthetic_bank import DESCRIPTION, SyntheticBank
from lungtune.errors import DataError
from lungtune.report import contact_sheet
from lungtune.retraining import runs
from lungtune.synthesize import plan as planning
from lungtune.synthesize.plan import UNREAD, Origin, Plan
from lungtune.tasks.generation import Generation, GenerativeFamily

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.engine.session import Session
    from lungtune.tasks.generation.evaluator import GenerationEvaluator

_BATCH = 64
"""Images drawn between two notes of what is done."""

_CORES = 8
"""With so many, or fewer, all of them draw (two at 1.7 times the pace of one, the same images); of more, half."""

_SHOWN = 8


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
    plan = planning.plan(path, per_class, classes, data, profile, seed, out, settings or {})
    bank = plan.bank()
    work = paths.home() / "generators" / plan.mark
    work.mkdir(parents=True, exist_ok=True)
    with waiting(work / ".lock", f"draws with this generator ({work})"):
        for entry in bank.drop_damaged():
            print(f"{entry.file} is damaged and is made anew", file=sys.stderr, flush=True)
        if bank.missing(plan.wanted):
            _make(plan, bank, work)
    return bank.folder


def complete(split: Inspection, per_class: Mapping[str, int], profile: str) -> Path | None:
    """Return the folder of the bank that :func:`synthesize` without a recipe would complete, if nothing is missing.

    Imports no torch.

    Args:
        split: the inspected data.
        per_class: images of each class.
        profile: ``demo`` or ``full``, of the space ``sd_lora``.
    """
    plan = planning.plan_default(split, per_class, None, profile, None, {})
    if not (plan.folder / DESCRIPTION).exists():
        return None
    bank = plan.bank()
    if bank.missing(plan.wanted):
        return None
    try:
        bank.verify()
    except DataError:  # damaged images are drawn anew
        return None
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
    made = planning.default_origin(found, "demo", {})
    family = cast("GenerativeFamily[Any, Any]", catalog.family(made.space.family))
    base = parameters.build(family.Base, made.space.base)
    folder = out or generator.SHIPPED
    file = folder / f"{planning.mark_of(made, family, base)}.safetensors"
    opened = dataset.load(found, family.fields, base.image_size)
    session = Session(family, base, opened, made.space.fidelity, made.space.objective)
    with tempfile.TemporaryDirectory() as work:
        generator.trained(session, made.space, made.fidelity, Path(work), f"the generator {made.name}")
        generator.pack(Path(work), found.manifest.without(*UNREAD).hash, file)
    for other in generator.SHIPPED.glob("*.safetensors") if out is None else ():
        if other != file:
            other.unlink()
    return file


def _make(plan: Plan, bank: SyntheticBank, work: Path) -> None:
    """Train the generator unless it is trained, and draw what the bank lacks."""
    from lungtune.data import dataset
    from lungtune.engine.session import Session
    from lungtune.synthesize import generator

    made = plan.origin
    assert made.space.seed is not None
    opened = dataset.load(plan.split, plan.family.fields, plan.base.image_size)
    session = Session(plan.family, plan.base, opened, made.space.fidelity, made.space.objective)
    scores = generator.trained(session, made.space, made.fidelity, work, f"the generator {made.name}")
    write_atomic(bank.folder / "generator.json", json.dumps(scores, indent=1).encode())
    run = runs.Run(made.space.seed, work)
    runs.resume(session, made.space, run, made.fidelity)
    _fill(session, bank, run, made, plan.wanted)
    _picture(bank, opened)


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
