"""The data set a training run sees: pixels, labels and patients per part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lungtune.data.audit import Audit, audit
from lungtune.data.manifest import Manifest
from lungtune.data.scan import scan
from lungtune.data.sources import index_source, parse_source
from lungtune.data.splits import link, make_manifest
from lungtune.data.store import open_pixels
from lungtune.errors import DataError


@dataclass(frozen=True)
class Part:
    """One part of a data set, N cases.

    Attributes:
        images: uint8 `(N, S, S)` gray, a read-only memory map shared by all processes.
        labels: int64 `(N,)`, positions in `Dataset.classes`.
        patients: str `(N,)`, group names: patient joined with duplicates. The unit of the bootstrap.
        case_ids: str `(N,)`.
    """

    images: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    case_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A split data set at one image size. `test` is None unless it was asked for."""

    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part | None
    manifest: Manifest
    audit: Audit
    source: str


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; no pixels are kept. `audit.problems` is empty when a search may start."""

    cases: pd.DataFrame
    facts: pd.DataFrame
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
    facts = scan(list(cases["path"]))
    links = link(cases, facts)
    manifest = make_manifest(cases, facts, folds=folds, fold=fold, seed=seed, source=_absolute(source), links=links)
    return Inspection(cases, facts, manifest, audit(cases, facts, manifest, links=links), manifest.source)


def load(data: Inspection | Manifest | Path | str, image_size: int, *, test: bool = False) -> Dataset:
    """Open training and validation pixels, decoding them first if no process has done so.

    Args:
        data: an inspection, or the file its `save` wrote: then nothing is scanned, and the images themselves are
            touched only if the pixel cache was deleted.
        image_size: side in pixels.
        test: also decode and open the test part.

    Raises:
        DataError: there are problems, the manifest is damaged, or an image is gone or changed.
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
        checked = audit(cases, scan(list(cases["path"])), manifest)
    if checked.problems:
        raise DataError(" ".join(checked.problems))
    numbers = {name: number for number, name in enumerate(manifest.classes)}
    return Dataset(
        classes=manifest.classes,
        train=_part(manifest, "train", numbers, image_size),
        validation=_part(manifest, "validation", numbers, image_size),
        test=_part(manifest, "test", numbers, image_size) if test else None,
        manifest=manifest,
        audit=checked,
        source=manifest.source,
    )


def _part(manifest: Manifest, name: str, numbers: dict[str, int], image_size: int) -> Part:
    entries = manifest.parts[name]
    return Part(
        images=open_pixels(entries.path, entries.sha1, image_size, name),
        labels=np.array([numbers[label] for label in entries.label], dtype=np.int64),
        patients=np.array(entries.group, dtype=str),
        case_ids=np.array(entries.case_id, dtype=str),
    )


def _absolute(source: str) -> str:
    """Return the source with an absolute path, so that a study can be resumed from any folder."""
    name, path, options = parse_source(source)
    tail = "".join(f",{key}={value}" for key, value in options.items())
    return f"{name}:{path.resolve()}{tail}" if path else f"{name}{tail}"
