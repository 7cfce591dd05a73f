"""PadChest (Bustos et al. 2020): 160,868 images of 67,625 patients, over 170 findings and diagnoses, 16-bit PNG.

`PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` with `ImageID`, `PatientID`, `Projection` and `Labels`, a list as
Python writes it: `['cardiomegaly', ' pleural effusion']`. Images are in the folders `ImageDir` or in one. There is no
official split. Blanks around labels and repeated labels do not count. Images labelled `exclude`, and rows without
labels, are left out; `unchanged` and `suboptimal study` are no findings.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.data.inventory import Inventory
from lungtune.data.sources import _labelled, _published
from lungtune.data.sources._labelled import Record
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "PadChest: findings and diagnoses a case, 16-bit PNG, patients"
OPTIONS = {
    **_labelled.OPTIONS,
    "least": "labels of at least so many images, where `labels` names none (default 100)",
    "method": "physician: only images whose labels a physician wrote; all (default): also those of a network",
}
_TABLE = "PADCHEST*.csv"
_NO_FINDINGS = ("exclude", "unchanged", "suboptimal study", "")
_USES = {
    "ImageID": "path",
    "PatientID": "patient_id",
    "Labels": "labels",
    "Projection": "view",
    "PatientSex_DICOM": "sex",
    "PatientBirth": "age",
    "StudyDate_DICOM": "age",
    "Manufacturer_DICOM": "scanner",
    "Report": "text",
    "MethodLabel": "method",
}


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images that the table lists.

    Raises:
        DataError: no such folder or table, `Labels` is no list, an option is wrong, or no image is there.
    """
    root = _published.folder_with(path, "padchest", _TABLE)
    content = _published.one_table(root, _TABLE, ("ImageID", "PatientID", "Labels"), _USES)
    inventory = Inventory(patients="named in the column 'PatientID'")
    _labelled.note_columns(inventory, content, _USES)
    images = _published.Images(root)
    files = {name: images.find(name) for name in content["ImageID"]}
    used = set(files.values())
    left = {Path(file): f"not in {content.file.name}" for file in images.paths.values() if file not in used}
    labels_of = _labels(content, _physician(options), inventory)
    counts = Counter(word for words in labels_of.values() for word in words)
    names = _names(counts, options)
    records = _records(content, labels_of, names, files)
    return _labelled.cases_of("padchest", records, names, options, inventory, root, left)


def _physician(options: dict[str, str]) -> bool:
    method = options.get("method", "all")
    if method not in ("physician", "all"):
        raise DataError(f"method must be physician or all, but got {method!r}.")
    return method == "physician"


def _labels(content: Table, physician: bool, inventory: Inventory) -> dict[int, frozenset[str]]:
    """Return row -> its labels, of the rows that are used.

    Raises:
        DataError: a value is no list of words.
    """
    if physician and "MethodLabel" not in content.columns:
        raise DataError(f"{content.file} must have a column 'MethodLabel' where method=physician is given.")
    labels_of, read = {}, dict[str, frozenset[str]]()
    for k, text in enumerate(content["Labels"]):
        if physician and content["MethodLabel"][k].lower() != "physician":
            inventory.leave("not labelled by a physician", "image")
            continue
        if text not in read:
            read[text] = _words(text, content.where(k))
        if not text or text.lower() == "nan" or not read[text] - {""}:
            inventory.leave("without labels", "image")
        elif "exclude" in read[text]:
            inventory.leave("labelled exclude", "image")
        else:
            labels_of[k] = read[text] - set(_NO_FINDINGS)
    return labels_of


def _words(text: str, where: str) -> frozenset[str]:
    if not text or text.lower() == "nan":
        return frozenset()
    try:
        words = ast.literal_eval(text)
        return frozenset(" ".join(word.lower().split()) for word in words)
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise DataError(f"{where}: Labels must be a list such as ['normal'], but got {text!r}.") from error


def _names(counts: Counter[str], options: dict[str, str]) -> tuple[str, ...]:
    """Return the labels, the most frequent first: all where the user chooses among them, else the frequent ones."""
    ordered = tuple(name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    if "labels" in options:
        return ordered
    text = options.get("least", "100")
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"least must be a whole number >= 1, but got {text!r}.")
    frequent = tuple(name for name in ordered if counts[name] >= int(text))
    if not frequent:
        most = f"'{ordered[0]}' has {counts[ordered[0]]}" if ordered else "there are none"
        raise DataError(f"least must leave labels, but none is of {text} images: {most}.")
    return frequent


def _records(
    content: Table, labels_of: dict[int, frozenset[str]], names: tuple[str, ...], files: dict[str, str | None]
) -> Iterator[Record]:
    """Yield every used row."""
    columns = {"view": "Projection", "sex": "PatientSex_DICOM", "scanner": "Manufacturer_DICOM"}
    for k, (_, row) in enumerate(content):
        if k not in labels_of:
            continue
        about = {name: row[column] for name, column in columns.items() if column in row}
        born, taken = row.get("PatientBirth", "")[:4], row.get("StudyDate_DICOM", "")[:4]
        age = str(int(taken) - int(born)) if born.isdecimal() and taken.isdecimal() else ""
        labels = {name: float(name in labels_of[k]) for name in names}
        image = row["ImageID"]
        text = row.get("Report") or None
        yield Record(image, files.get(image), labels, row["PatientID"], text=text, about={**about, "age": age})
