"""Data set of a training run: fields, patients and case ids per part."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.fields import Field, Labels
from lungtune.core.io import stage
from lungtune.data import store
from lungtune.data.audit import Audit, audit
from lungtune.data.gathering import discard, gathering
from lungtune.data.manifest import OPTIONAL, Entries, Manifest, Numbers
from lungtune.data.masks import scan_masks
from lungtune.data.scan import scan
from lungtune.data.sources import absolute, index_source
from lungtune.data.splits import link, make_manifest
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a data set, N cases.

    Attributes:
        fields: name -> array `(N, ...)` by the kind of the field:

            - image: uint8 `(N, C, S, S)`, volume: uint8 `(N, C, S, S, S)`, both letterboxed. Read-only memory maps
              shared by all processes.
            - mask: uint8 `(N, 1, S, S[, S])`, 0 or 255, lungs in the letterbox of their image; a memory map too.
            - label: int64 `(N,)`, positions in `Dataset.classes`.
            - labels: float32 `(N, L)`, 0 or 1, `UNCERTAIN` where a reader left it open, NaN where unknown.
            - text: str `(N,)`, empty where there is none.
            - table: float32 `(N, K)`, NaN where unknown.
        known: name -> bool `(N,)`, True for cases that have the field. A name that is absent: all cases have it.
        patients: str `(N,)`, group names: patient joined with duplicates. The unit of the bootstrap.
        case_ids: str `(N,)`.
        unit: what `patients` are, for sentences (`Manifest.unit`).
    """

    fields: Mapping[str, np.ndarray]
    known: Mapping[str, np.ndarray]
    patients: np.ndarray
    case_ids: np.ndarray
    unit: str = "patients"

    def __post_init__(self) -> None:
        columns = {**self.fields, **{f"known[{name}]": rows for name, rows in self.known.items()}}
        columns |= {"patients": self.patients, "case_ids": self.case_ids}
        odd = [f"{name} has {len(column)}" for name, column in columns.items() if len(column) != len(self.patients)]
        if odd:
            raise ValueError(f"all columns must have {len(self.patients)} rows, but {', '.join(odd)}")

    def __len__(self) -> int:
        return len(self.patients)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.fields:
            raise KeyError(f"the field {name!r} was not loaded; loaded are {', '.join(self.fields) or 'none'}")
        return self.fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def has(self, name: str) -> np.ndarray:
        """Return bool `(N,)`, True for cases that have the field; all False if it was not loaded."""
        if name not in self.fields:
            return np.zeros(len(self), dtype=bool)
        return self.known.get(name, np.ones(len(self), dtype=bool))

    def select(self, rows: np.ndarray) -> Part:
        """Return a subset of cases; `rows` are positions or bool `(N,)`. Memory maps are copied."""
        rows = np.asarray(rows)
        return Part(
            fields={name: array[rows] for name, array in self.fields.items()},
            known={name: array[rows] for name, array in self.known.items()},
            patients=self.patients[rows],
            case_ids=self.case_ids[rows],
            unit=self.unit,
        )

    @classmethod
    def of(
        cls,
        *,
        patients: Sequence[str] | np.ndarray | None = None,
        case_ids: Sequence[str] | np.ndarray | None = None,
        known: Mapping[str, np.ndarray] | None = None,
        **arrays: Any,
    ) -> Part:
        """Create a part from arrays by field name, for tests and tools.

        Args:
            patients: group names; by default the row number.
            case_ids: by default the row number.
            known: see `Part`.
            **arrays: fields, N rows each.
        """
        fields = {name: np.asanyarray(array) for name, array in arrays.items()}
        rows = next((len(a) for a in (*fields.values(), patients, case_ids) if a is not None), 0)
        numbers = np.arange(rows).astype(str)
        return cls(
            fields=fields,
            known={name: np.asarray(array, dtype=bool) for name, array in (known or {}).items()},
            patients=numbers if patients is None else np.asarray(patients, dtype=str),
            case_ids=numbers if case_ids is None else np.asarray(case_ids, dtype=str),
        )


@dataclass(frozen=True)
class Dataset:
    """A split data set at one image size.

    Attributes:
        classes: names of the classes of `label`; where there is no single label, or several labels are loaded alone,
            those of `labels` as `core.fields.Labels`; empty without either.
        train: the training part.
        validation: the validation part.
        test: the test part; None unless requested.
        manifest: the split.
        audit: the check of the data.
        source: the data source.
        synthetic: a bank's images by class and index; None without a bank. They are not part of the split and used in
            training only. Their text is the caption; masks, labels and tables are unknown (`Part.has`).
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
    """Result of `inspect`, without pixels. A search may start if `audit.problems` is empty.

    Attributes:
        cases: the case table, N rows.
        facts: result of `scan`, a row per case.
        masks: result of `scan_masks`, a row per case.
        manifest: the split.
        audit: the check of the data.
        source: the data source, with an absolute path.
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

    def with_split(self, stored: Manifest) -> Inspection:
        """Return the inspection with a split drawn earlier, its files where they are now.

        Where a case is not of `stored`, lacks here, or has another image or label, return it as it is.
        """
        rows = {case: row for row, case in enumerate(self.cases["case_id"])}
        digests, labels = self.facts["sha1"].to_numpy(), self.cases["label"].to_numpy()
        held = {case for entries in stored.parts.values() for case in entries.case_id} | set(stored.excluded)
        same = held == rows.keys() and all(
            digests[rows[case]] == sha1 and labels[rows[case]] == label
            for entries in stored.parts.values()
            for case, sha1, label in zip(entries.case_id, entries.sha1, entries.label, strict=True)
        )
        if not same:
            return self
        files, masks = self.cases["path"].to_numpy(), self.cases["mask_path"].to_numpy()
        parts = {
            part: replace(
                entries,
                path=tuple(files[rows[case]] for case in entries.case_id),
                mask=tuple(
                    mask and masks[rows[case]] for case, mask in zip(entries.case_id, entries.mask, strict=True)
                ),
            )
            for part, entries in stored.parts.items()
        }
        manifest = replace(stored, parts=parts, source=self.source)
        return replace(self, manifest=manifest, audit=audit(self.cases, self.facts, manifest, masks=self.masks))


def inspect(
    source: str,
    *,
    seed: int = 0,
    folds: int = 5,
    fold: int = 0,
    cases: pd.DataFrame | None = None,
    fresh: bool = False,
    size: int | None = None,
) -> Inspection:
    """Index, scan, split and check a data source.

    Problems of the data do not raise: they are in `audit.problems`.

    Args:
        source: `NAME[:PATH][,key=value...]`.
        seed: of the validation draw.
        folds: number of folds.
        fold: index of the validation fold.
        cases: the source's case table, if it has been indexed.
        fresh: read every file, whatever is cached.
        size: side in pixels of the grey images that `load` will open: what the scan decodes is kept for it.

    Raises:
        DataError: the source cannot be indexed, or `folds`/`fold` is out of range.
    """
    if cases is None:
        with stage(f"Listing the cases of {source}"):
            cases = index_source(source)
    with gathering(size) as keep:
        facts = scan(list(cases["path"]), voi=cases.attrs["voi"], fresh=fresh, size=size, keep=keep)
    masks = scan_masks(cases, fresh=fresh)
    known = cases["patient_id"].notna().any()
    with stage("Looking for duplicates" + (" and shared patients" if known else "")):
        links = link(cases, facts)
    with stage("Splitting by patient" if known else "Splitting"):
        manifest = make_manifest(
            cases, facts, folds=folds, fold=fold, seed=seed, source=absolute(source), links=links, masks=masks
        )
    with stage("Checking what gives the classes away"):
        checked = audit(cases, facts, manifest, links=links, masks=masks)
    return Inspection(cases, facts, masks, manifest, checked, manifest.source)


def missing(
    data: Inspection | Manifest, fields: Sequence[Field], who: str = "The model", scored: Sequence[Field] = ()
) -> str:
    """Return an error sentence if the data lack one of `fields`, else an empty string; decodes nothing.

    Args:
        data: an inspection or its manifest.
        fields: required fields.
        who: name of what requires them, such as a family.
        scored: fields that validation cases must have, as targets of scores.
    """
    manifest = data.manifest if isinstance(data, Inspection) else data
    for wanted in fields:
        lack = _lack(manifest, wanted)
        if lack:
            return f"{who} needs {lack}"
    for wanted in scored:
        if wanted.kind in OPTIONAL and not manifest.has(wanted.kind, "validation"):
            what = f"{_WANTED[wanted.kind][0]} to be scored by"
            return f"{who} needs {what}, but no validation image of {manifest.source} has one. Try another --seed."
    return ""


def unnamed(traits: Collection[str], source: str, fields: Sequence[Field], who: str) -> str:
    """Return an error sentence if no case names one of `fields`, else an empty string; reads no file.

    Args:
        traits: of the cases (`cases.traits`); see `missing` for a check of the files' content.
        source: the data source.
        fields: required fields.
        who: name of what requires them, such as a family.
    """
    for wanted in fields:
        if wanted.kind in _WANTED and wanted.kind not in traits:
            what, remedy = _WANTED[wanted.kind]
            return f"{who} needs {what}, but {absolute(source)} names none. {remedy}"
    return ""


_WANTED = {
    "mask": (
        "lung masks",
        "Name their folder, as in chest_xray:DIR,masks=DIR2, or give a table with a column 'mask'.",
    ),
    "label": ("a class of each case", "Give class folders, or a table with a column 'label'."),
    "labels": (
        "several labels of each case",
        "Name a data set that has them, such as nih:DIR or chexpert:DIR; or a table and its columns of 0, 1 or blank, "
        "as in table:FILE.csv,labels=edema|effusion.",
    ),
    "text": ("a text of each case", "Give a table with a column 'text', or use phantom, whose images have captions."),
    "table": (
        "numbers of each case",
        "Give a table and name their columns, as in table:FILE.csv,columns=age|sex.",
    ),
}


def _lack(manifest: Manifest, wanted: Field) -> str:
    """Return the continuation of "X needs" if the data lack a field, else an empty string."""
    source, kind = manifest.source, wanted.kind
    if kind in ("image", "volume"):
        if kind != manifest.kind:
            remedy = (
                "Give PNG, JPEG or DICOM images, or use a family of volumes."
                if kind == "image"
                else "Give volumes, as in a table whose paths are .npy files, or use a family of images."
            )
            return f"{kind}s, but {source} holds {manifest.kind}s. {remedy}"
        if kind == "volume" and wanted.channels != manifest.channels:
            return (
                f"volumes of {wanted.channels} channel{'s' * (wanted.channels != 1)}, but those of {source} have "
                f"{manifest.channels}. Write .npy files of shape ({wanted.channels}, depth, height, width)."
            )
        return ""
    what, remedy = _WANTED[kind]
    if kind == "label":
        return "" if manifest.classes else f"{what}, but {source} names none. {remedy}"
    if not manifest.has(kind):
        return f"{what}, but {source} names none. {remedy}"
    if not manifest.has(kind, "train"):
        return f"{what}, but no training image of {source} has one."
    return ""


def load(
    data: Inspection | Manifest | Path | str,
    fields: Sequence[Field],
    size: int,
    *,
    test: bool = False,
    bank: SyntheticBank | None = None,
    expected: str | None = None,
) -> Dataset:
    """Open fields of training and validation cases; decodes them first if they are not in the pixel cache.

    Args:
        data: an inspection, its manifest, or the file written by its `save`. With a file nothing is scanned, and
            images are read only if the pixel cache lacks them.
        fields: to open; others are not decoded.
        size: side of images, volumes and masks in pixels.
        test: also decode and open the test part.
        bank: also decode and open these synthetic images.
        expected: hash of the split that a file must hold; None: any.

    Raises:
        DataError: the audit has problems, the manifest is damaged or another one, the data lack a field (see
            `missing`), an image or a mask is missing or changed, or the bank belongs to another training fold.
        ValueError: two fields have the same name.
    """
    fields = tuple(dict.fromkeys(fields))
    if len({wanted.name for wanted in fields}) < len(fields):
        raise ValueError(f"fields must have different names, but got {', '.join(wanted.name for wanted in fields)}")
    if isinstance(data, Inspection):
        manifest, checked = data.manifest, data.audit
    elif isinstance(data, Manifest):
        manifest, checked = data, None
    else:
        manifest, saved = Manifest.read(Path(data), expected)
        checked = Audit.from_dict(saved) if saved else None
    if checked is None:
        cases = index_source(manifest.source)
        facts = scan(list(cases["path"]), voi=cases.attrs["voi"])
        checked = audit(cases, facts, manifest, masks=scan_masks(cases))
    if checked.problems:
        raise DataError(" ".join(checked.problems))
    refused = missing(manifest, fields)
    if refused:
        raise DataError(refused)
    if bank is not None:
        bank.check_training_fold(manifest)
        if manifest.kind != "image":
            raise DataError(f"a bank holds images, but {manifest.source} holds {manifest.kind}s; leave the bank out.")
    part = partial(_part, manifest, fields=fields, size=size)
    opened = Dataset(
        classes=_names(manifest, fields),
        train=part("train"),
        validation=part("validation"),
        test=part("test") if test else None,
        manifest=manifest,
        audit=checked,
        source=manifest.source,
        synthetic=None if bank is None else _synthetic(bank, manifest, fields, size),
    )
    discard(size)
    return opened


def _names(manifest: Manifest, fields: Sequence[Field]) -> tuple[str, ...]:
    """Return the names of `Dataset.classes` where these fields are loaded."""
    kinds = {wanted.kind for wanted in fields}
    several = "labels" in kinds and "label" not in kinds
    return Labels(manifest.label_names) if several or not manifest.classes else manifest.classes


def _part(manifest: Manifest, name: str, fields: Sequence[Field], size: int) -> Part:
    entries = manifest.parts[name]
    arrays, known = {}, {}
    for wanted in fields:
        arrays[wanted.name] = _array(manifest, entries, wanted, size, name)
        if wanted.kind in _KNOWN:
            column = getattr(entries, _KNOWN[wanted.kind])
            known[wanted.name] = np.array([_is_known(value) for value in column], dtype=bool)
    return Part(arrays, known, np.array(entries.group, dtype=str), np.array(entries.case_id, dtype=str), manifest.unit)


_KNOWN = {"mask": "mask_sha1", "labels": "labels", "text": "text", "table": "table"}


def _is_known(value: str | Numbers | None) -> bool:
    """True if a case has the field: a file, a text, or at least one number."""
    return value is not None and (isinstance(value, str) or any(number is not None for number in value))


def _array(manifest: Manifest, entries: Entries, wanted: Field, size: int, name: str) -> np.ndarray:
    """Return one field of one part; see `Part`."""
    files = entries.path, entries.sha1
    if wanted.kind == "image":
        return store.open_images(*files, size, name, wanted.channels)
    if wanted.kind == "volume":
        return store.open_volumes(*files, size, name, wanted.channels)
    if wanted.kind == "mask":
        return store.open_masks(entries.mask, entries.mask_sha1, *files, size, name, manifest.kind)
    if wanted.kind == "label":
        numbers = {label: number for number, label in enumerate(manifest.classes)}
        return np.array([numbers[str(label)] for label in entries.label], dtype=np.int64)
    if wanted.kind == "text":
        return np.array([text or "" for text in entries.text], dtype=str)
    rows = entries.labels if wanted.kind == "labels" else entries.table
    return _numbers(rows, len(manifest.label_names if wanted.kind == "labels" else manifest.columns))


def _numbers(rows: Sequence[Numbers | None], width: int) -> np.ndarray:
    """Return float32 `(N, width)`, NaN for None."""
    return np.array([row or (None,) * width for row in rows], dtype=np.float32).reshape(len(rows), width)


def _synthetic(bank: SyntheticBank, manifest: Manifest, fields: Sequence[Field], size: int) -> Part:
    """Return a bank's images as a part with all `fields`; those a bank lacks are zero or NaN, and not known."""
    entries = [entry for label in bank.classes for entry in bank.entries(label)]
    files, hashes = [str(bank.folder / entry.file) for entry in entries], [entry.sha1 for entry in entries]
    names = np.array([f"synthetic/{entry.label}/{entry.index}" for entry in entries], dtype=str)
    count = len(entries)
    none: tuple[None, ...] = (None,) * count
    arrays, known = {}, {}
    for wanted in fields:
        if wanted.kind == "image":
            arrays[wanted.name] = store.open_images(files, hashes, size, "synthetic", wanted.channels)
        elif wanted.kind == "label":
            arrays[wanted.name] = np.array([bank.classes.index(entry.label) for entry in entries], dtype=np.int64)
        elif wanted.kind == "text":
            arrays[wanted.name] = np.array([entry.caption for entry in entries], dtype=str)
            known[wanted.name] = arrays[wanted.name] != ""
        elif wanted.kind == "mask":
            arrays[wanted.name] = np.broadcast_to(np.zeros((), np.uint8), (count, 1, size, size))
        elif wanted.kind in ("labels", "table"):
            width = len(manifest.label_names if wanted.kind == "labels" else manifest.columns)
            arrays[wanted.name] = _numbers(none, width)
        if wanted.kind in ("mask", "labels", "table"):
            known[wanted.name] = np.zeros(count, dtype=bool)
    return Part(arrays, known, names, names)
