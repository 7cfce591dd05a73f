"""RSNA Pneumonia Detection Challenge (2018), stage 2, as distributed by Kaggle.

`stage_2_train_images/<patientId>.dcm`, `stage_2_train_labels.csv` with a row per box and
`stage_2_detailed_class_info.csv` with three classes. A `patientId` names an image: the challenge took its images from
NIH ChestX-ray14, where one patient has up to dozens. RSNA's mapping (`pneumonia-challenge-dataset-mappings_2018.json`,
a list of `subset_img_id` and `img_id`) maps images to patients, which are unknown without it. The images of the stage 2
test part have no labels and are not read.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import paths
from lungtune.data.sources._files import elsewhere, images, named, nested, require_file, require_folder
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "RSNA Pneumonia Detection Challenge (DICOM, Kaggle folder): normal, not_normal, lung_opacity"
OPTIONS = {
    "labels": "detailed: normal, not_normal (no opacity), lung_opacity (default); target: no_opacity, lung_opacity",
    "nih": "JSON or CSV with subset_img_id and img_id: RSNA's mapping to NIH ChestX-ray14, for patients",
}
PATHS = ("nih",)
CLASSES = {"detailed": ("normal", "not_normal", "lung_opacity"), "target": ("no_opacity", "lung_opacity")}
_DETAILED = {
    "normal": "normal",
    "no lung opacity / not normal": "not_normal",
    "lung opacity": "lung_opacity",
}
_TARGET = {"0": "no_opacity", "1": "lung_opacity", "0.0": "no_opacity", "1.0": "lung_opacity"}
_TABLES = {
    "detailed": ("stage_2_detailed_class_info.csv", "class", _DETAILED),
    "target": ("stage_2_train_labels.csv", "Target", _TARGET),
}
_IMAGES = "stage_2_train_images"


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set below `path`.

    Raises:
        DataError: no such layout below `path`, a table is damaged or contradicts itself, or it names images that are
            missing.
    """
    from lungtune.data.cases import table

    which = options.get("labels", "detailed")
    if which not in _TABLES:
        raise DataError(f"labels must be one of {', '.join(_TABLES)}, but got {which!r}.")
    top = require_folder(path, "rsna")
    root = nested(top, _fits)
    if root is None:
        raise DataError(
            f"rsna needs a folder with {_IMAGES} and {_TABLES[which][0]}, but there is none in {top}."
            f"{elsewhere(top, 'rsna', _fits)}"
        )
    labels = _labels(root, which)
    patients = _patients(paths.expanded(options["nih"])) if "nih" in options else {}
    files = {file.stem: file for file in images(root / _IMAGES)}
    missing = sorted(set(labels) - set(files))
    if missing:
        raise DataError(
            f"Every image in {_TABLES[which][0]} must lie in {root / _IMAGES}, but {len(missing)} of {len(labels)} do "
            f"not: {named([f'{name}.dcm' for name in missing])}. Unpack the archive again."
        )
    strangers = sorted(set(labels) - set(patients)) if patients else []
    if len(strangers) == len(labels):
        raise DataError(f"{options['nih']} must name the images of {root}, but it names none, such as {strangers[0]}.")
    rows: list[dict[str, Any]] = [
        {
            "case_id": name,
            "path": str(files[name]),
            "label": label,
            "patient_id": patients.get(name),
            "source": "rsna",
        }
        for name, label in labels.items()
    ]
    return table(rows, classes=CLASSES[which])


def _fits(folder: Path) -> bool:
    return (folder / _IMAGES).is_dir()


def _labels(root: Path, which: str) -> dict[str, str]:
    """Return image -> label: one line or several per image, which must agree.

    Raises:
        DataError: no such file, or a line is not as it should be.
    """
    name, column, known = _TABLES[which]
    file = require_file(root / name, "rsna", "DIR")
    labels: dict[str, str] = {}
    for line, row in _rows(file, ("patientId", column)):
        image, value = row["patientId"], row[column]
        label = known.get(value.lower())
        if label is None or not image:
            raise DataError(f"{file}:{line}: {column} must be one of {named(list(known))}, but got {value!r}.")
        if labels.setdefault(image, label) != label:
            raise DataError(f"{file}:{line}: {image} must have one {column}, but has {labels[image]} and {label}.")
    if not labels:
        raise DataError(f"{file} must have at least one row below its header, but it has none.")
    return labels


def _patients(path: Path) -> dict[str, str]:
    """Return image -> NIH patient.

    Raises:
        DataError: no such file, or it is not as it should be.
    """
    file = require_file(path, "rsna", "DIR,nih=FILE")
    if file.suffix.lower() == ".csv":
        pairs = [(row["subset_img_id"], row["img_id"]) for _, row in _rows(file, ("subset_img_id", "img_id"))]
    else:
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))
            pairs = [(str(entry["subset_img_id"]), str(entry["img_id"])) for entry in entries]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{file} must be a JSON list of objects with subset_img_id and img_id, but it is not: "
                f"{type(error).__name__} {error}."
            ) from error
    return {image: f"nih/{original.partition('_')[0]}" for image, original in pairs if image and original}


def _rows(file: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Return line number and values of every row of a CSV.

    Raises:
        DataError: not readable as CSV, or a column is missing.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            lacking = [column for column in columns if column not in (reader.fieldnames or ())]
            if lacking:
                raise DataError(f"{file} must have a column '{lacking[0]}', but its columns are {reader.fieldnames}.")
            return [(reader.line_num, {key: (row[key] or "").strip() for key in columns}) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} must be a CSV file in UTF-8, but it is not: {error}.") from error
