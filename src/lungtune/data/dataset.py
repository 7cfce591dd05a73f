"""The data set a training run sees: pixels, labels and patients per part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lungtune.data.audit import Audit, audit
from lungtune.data.manifest import Manifest
from lungtune.data.masks import scan_masks
from lungtune.data.scan import scan
from lungtune.data.sources import absolute, index_source
from lungtune.data.splits import link, make_manifest
from lungtune.data.store import open_masks, open_pixels
from lungtune.data.synthetic_bank import Bank
from lungtune.errors import DataError


@dataclass(frozen=True)
class Part:
    """One part of a data set, N cases.

    Attributes:
        images: uint8 `(N, S, S)` gray, a read-only memory map shared by all processes.
        labels: int64 `(N,)`, positions in `Dataset.classes`.
        patients: str `(N,)`, group names: patient joined with duplicates. The unit of the bootstrap.
        case_ids: str `(N,)`.
        masks: uint8 `(N, S, S)`, 0 or 255, lungs in the same letterbox as their image, a read-only memory map; a row
            is black where its case has no mask. None unless asked for, and in data without any mask.
        masked: bool `(N,)`, which cases have a mask.
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    case_ids: np.ndarray
    masks: np.ndarray | None
    masked: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A split data set at one image size.

    `test` is None unless it was asked for. `synthetic` are a bank's images, class by class in the order of their index,
    without masks; None without a bank. They are no part of the split: only training sees them.
    """

    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part | None
    manifest: Manifest
    audit: Audit
    source: str
    synthetic: Part | None = None


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; no pixels are kept. `audit.problems` is empty when a search may start.

    `facts` has a row per case about its image, `masks` one about its mask.
    """

    cases: pd.DataFrame
    facts: pd.DataFrame
    masks: pd.DataFrame
    manifest: Manifest
    audit: Audit
    source: str

    def save(self, path: Path) -> None:
        """Write manifest and audit to a JSON file from which `load` opens the data set in any process."""
        self.manifest.save(path, audit=self.audit.to_dict())


def inspect(source: str, *, seed: int = 0, folds: int = 5, fold: int = 0) -> Inspection:
    """Index, scan, split and check a data source.

    Bad data is no error here: it is in `audit.problems`.

    Args:
        source: `NAME[:PATH][,key=value...]`.
        seed: of the validation draw.
        folds: number of folds.
        fold: which one validates.

    Raises:
        DataError: the source cannot be indexed at all, or `folds`/`fold` is out of range.
    """
    cases = index_source(source)
    facts = scan(list(cases["path"]), voi=cases.attrs["voi"])
    masks = scan_masks(cases)
    links = link(cases, facts)
    manifest = make_manifest(
        cases, facts, folds=folds, fold=fold, seed=seed, source=absolute(source), links=links, masks=masks
    )
    checked = audit(cases, facts, manifest, links=links, masks=masks)
    return Inspection(cases, facts, masks, manifest, checked, manifest.source)


def load(
    data: Inspection | Manifest | Path | str,
    image_size: int,
    *,
    test: bool = False,
    masks: bool = False,
    bank: Bank | None = None,
) -> Dataset:
    """Open training and validation pixels, decoding them first if no process has done so.

    Args:
        data: an inspection, or the file its `save` wrote: then nothing is scanned, and the images themselves are
            touched only if the pixel cache was deleted.
        image_size: side in pixels.
        test: also decode and open the test part.
        masks: also decode and open the lung masks.
        bank: also decode and open these synthetic images.

    Raises:
        DataError: there are problems, the manifest is damaged, an image or a mask is gone or changed, or the bank was
            made from another training fold.
    """
    if isinstance(data, Inspection):
        manifest, checked = data.manifest, data.audit
    elif isinstance(data, Manifest):
        manifest, checked = data, None
    else:
        manifest, saved = Manifest.read(Path(data))
        checked = Audit.from_dict(saved) if saved else None
    if checked is None:
        cases = index_source(manifest.source)
        facts = scan(list(cases["path"]), voi=cases.attrs["voi"])
        checked = audit(cases, facts, manifest, masks=scan_masks(cases))
    if checked.problems:
        raise DataError(" ".join(checked.problems))
    if bank is not None:
        bank.refuse_unless(manifest)
    part = partial(_part, manifest, image_size=image_size, masks=masks and manifest.masked)
    return Dataset(
        classes=manifest.classes,
        train=part("train"),
        validation=part("validation"),
        test=part("test") if test else None,
        manifest=manifest,
        audit=checked,
        source=manifest.source,
        synthetic=None if bank is None else _synthetic(bank, image_size),
    )


def _synthetic(bank: Bank, image_size: int) -> Part:
    entries = [entry for label in bank.classes for entry in bank.entries(label)]
    counts = [len(bank.entries(label)) for label in bank.classes]
    files, hashes = [str(bank.folder / entry.file) for entry in entries], [entry.sha1 for entry in entries]
    names = np.array([f"synthetic/{entry.label}/{entry.index}" for entry in entries], dtype=str)
    return Part(
        images=open_pixels(files, hashes, image_size, "synthetic"),
        labels=np.repeat(np.arange(len(counts), dtype=np.int64), counts),
        patients=names,
        case_ids=names,
        masks=None,
        masked=np.zeros(len(entries), dtype=bool),
    )


def _part(manifest: Manifest, name: str, image_size: int, masks: bool) -> Part:
    entries = manifest.parts[name]
    numbers = {label: number for number, label in enumerate(manifest.classes)}
    images = entries.path, entries.sha1
    return Part(
        images=open_pixels(*images, image_size, name),
        labels=np.array([numbers[label] for label in entries.label], dtype=np.int64),
        patients=np.array(entries.group, dtype=str),
        case_ids=np.array(entries.case_id, dtype=str),
        masks=open_masks(entries.mask, entries.mask_sha1, *images, image_size, name) if masks else None,
        masked=np.array([digest is not None for digest in entries.mask_sha1], dtype=bool),
    )
