"""MIMIC-CXR (Johnson et al. 2019): 377,110 images of 65,379 patients, the 14 labels of CheXpert of each study.

Tables, gzipped or not: `mimic-cxr-2.0.0-chexpert.csv` (a row a study), `mimic-cxr-2.0.0-split.csv` (a row an image; its
part is `train`, `validate` or `test`), `mimic-cxr-2.0.0-metadata.csv` (view; optional). Images
`files/p10/p10000032/s50414267/<dicom_id>.jpg` (MIMIC-CXR-JPG) or `.dcm`. All images of a study have its labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _labelled, _published
from lungtune.data.sources._files import SPLIT_NAMES
from lungtune.data.sources._labelled import CHEXPERT, Record
from lungtune.data.sources._located import Locator
from lungtune.data.sources._published import identifier
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "MIMIC-CXR, JPEG or DICOM: 14 labels a study, some of them uncertain; official parts, patients"
OPTIONS = {**_labelled.OPTIONS, **_labelled.BLANK}
_LABELS, _SPLIT, _METADATA = (f"mimic-cxr-*-{what}.csv" for what in ("chexpert", "split", "metadata"))
_PARTS = {**SPLIT_NAMES, "validate": "validation"}
_IDS = ("dicom_id", "study_id", "subject_id")


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images that the tables list.

    Raises:
        DataError: no such folder or table, a label or part has another value, or no image is there.
    """
    root = _published.folder_with(path, "mimic_cxr", _LABELS, _SPLIT)
    inventory = Inventory(patients="named in the column 'subject_id'")
    blank = _labelled.blank_value(options, inventory)
    studies = _published.one_table(root, _LABELS, ("subject_id", "study_id", *CHEXPERT))
    _labelled.note_columns(inventory, studies, {"subject_id": "patient_id", "study_id": "study"}, CHEXPERT)
    labels = _studies(studies, blank)
    images = _published.one_table(root, _SPLIT, (*_IDS, "split"))
    _labelled.note_columns(inventory, images, {**dict.fromkeys(_IDS, "path"), "split": "split"})
    views = _views(root, inventory)
    return _labelled.cases_of(
        "mimic_cxr", _records(root, images, labels, views, inventory), CHEXPERT, options, inventory, root
    )


def _studies(content: Table, blank: float | None) -> dict[str, dict[str, float | None]]:
    """Return study -> its labels by name.

    Raises:
        DataError: a value is wrong, or a study has two rows that differ.
    """
    labels: dict[str, dict[str, float | None]] = {}
    for k, (_, row) in enumerate(content):
        values = {name: _labelled.uncertain(row[name], content.where(k), name, blank) for name in CHEXPERT}
        study = identifier(row["study_id"])
        if labels.setdefault(study, values) != values:
            raise DataError(f"{content.where(k)}: each study must have one row, but {study} has two that differ.")
    return labels


def _records(
    root: Path,
    images: Table,
    labels: dict[str, dict[str, float | None]],
    views: dict[str, str],
    inventory: Inventory,
) -> Iterator[Record]:
    """Yield every image of a study that has labels.

    Raises:
        DataError: a part is unknown.
    """
    locator = Locator(root)
    for k, (_, row) in enumerate(images):
        image, study, patient = row["dicom_id"], *(identifier(row[name]) for name in _IDS[1:])
        if study not in labels:
            inventory.leave("its study has no labels", "image")
            continue
        part = _PARTS.get(row["split"].lower())
        if part is None:
            raise DataError(f"{images.where(k)}: split must be train, validate or test, but got {row['split']!r}.")
        case = f"files/p{patient[:2]}/p{patient}/s{study}/{image}"
        file = next(filter(None, (locator.find(f"{case}{suffix}") for suffix in (".jpg", ".dcm", ""))), None)
        about = {"view": views.get(image, "")}
        yield Record(case, file, labels[study], patient, part, about=about)


def _views(root: Path, inventory: Inventory) -> dict[str, str]:
    """Return dicom_id -> view; without the table of metadata, of none."""
    if not _published.tables(root, _METADATA):
        inventory.guesses.append(Guess("views", f"There is no {_METADATA}, so views are unknown."))
        return {}
    content = _published.one_table(root, _METADATA, ("dicom_id", "ViewPosition"))
    _labelled.note_columns(inventory, content, {"ViewPosition": "view"})
    return dict(zip(content["dicom_id"], content["ViewPosition"], strict=True))
