"""NIH ChestX-ray14 (Wang et al. 2017): 112,120 frontal images of 30,805 patients, 14 labels mined from reports.

`Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, images `images_001/images/00000001_000.png` to `images_012/...` or
in one folder, and the official lists `train_val_list.txt` and `test_list.txt`. `Finding Labels` joins labels by `|`;
`No Finding` is the absence of all 14, not a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _labelled, _published, _tables
from lungtune.data.sources._labelled import Record
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "NIH ChestX-ray14: 14 labels a case, official train and test lists, patients"
OPTIONS = {**_labelled.OPTIONS}
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_TABLE = "Data_Entry_2017*.csv"
_LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
_NONE = "No Finding"
_USES = {
    "Image Index": "path",
    "Finding Labels": "labels",
    "Patient ID": "patient_id",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "View Position": "view",
}


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images that the table lists.

    Raises:
        DataError: no such folder or table, a label is unknown, a list names an image twice, or no image is there.
    """
    root = _published.folder_with(path, "nih", _TABLE)
    content = _published.one_table(root, _TABLE, ("Image Index", "Finding Labels", "Patient ID"), _USES)
    inventory = Inventory(patients="named in the column 'Patient ID'")
    _labelled.note_columns(inventory, content, _USES)
    images = _published.Images(root)
    files = {name: images.find(name) for name in content["Image Index"]}
    parts = _lists(root, content, inventory)
    used = set(files.values())
    left = {Path(file): f"not in {content.file.name}" for file in images.paths.values() if file not in used}
    return _labelled.cases_of("nih", _records(content, files, parts), LABELS, options, inventory, root, left)


def _records(content: Table, files: dict[str, str | None], parts: dict[str, str]) -> Iterator[Record]:
    """Yield every row.

    Raises:
        DataError: it has an unknown label, or one beside `No Finding`.
    """
    known = {_labelled.plain(name): name for name in (*LABELS, _NONE)}
    for k, (_, row) in enumerate(content):
        words = [word.strip() for word in row["Finding Labels"].split("|") if word.strip()]
        for word in words:
            if _labelled.plain(word) not in known:
                raise DataError(
                    f"{content.where(k)}: Finding Labels must be among the 14 or {_NONE}, but got {word!r}."
                    f"{did_you_mean(word, LABELS)}"
                )
        words = [known[_labelled.plain(word)] for word in words]
        if not words or (_NONE in words and len(words) > 1):
            raise DataError(
                f"{content.where(k)}: Finding Labels must be labels, or {_NONE} alone, but got "
                f"{row['Finding Labels']!r}."
            )
        about = {"age": "Patient Age", "view": "View Position"}
        metadata = {name: row[column] for name, column in about.items() if column in row}
        sex = row.get("Patient Gender", row.get("Patient Sex", ""))
        name = row["Image Index"]
        labels = {label: float(label in words) for label in LABELS}
        yield Record(name, files.get(name), labels, row["Patient ID"], parts.get(name), about={**metadata, "sex": sex})


def _lists(root: Path, content: Table, inventory: Inventory) -> dict[str, str]:
    """Return the official part of the table's images that the lists name.

    Raises:
        DataError: an image is in both, a list is no text, or names no image of the table.
    """
    files = {part: _published.tables(root, name)[-1:] for part, name in _LISTS.items()}
    missing = [name for part, name in _LISTS.items() if not files[part]]
    if missing:
        sentence = f"There is no {' and no '.join(missing)}, so all parts are drawn."
        inventory.guesses.append(Guess("parts", sentence))
        return {}
    named = {_stem(name): name for name in content["Image Index"]}
    parts: dict[str, str] = {}
    for part, (file,) in files.items():
        listed = _tables.text(file).split()
        for name in listed:
            image = named.get(_stem(name))
            if image is not None and parts.setdefault(image, part) != part:
                raise DataError(f"An image must be in one official list, but {name} is in both.")
        if listed and part not in parts.values():
            raise DataError(
                f"{file} must list images of {content.file.name}, but none of {len(listed):,} is in it: {listed[0]}, "
                "for one."
            )
    if lacking := len(named) - len(parts):
        sentence = f"{lacking:,} of {len(named):,} images are in neither official list; their part is drawn."
        inventory.guesses.append(Guess("parts", sentence))
    return parts


def _stem(name: str) -> str:
    """Return an image's name without folders and suffix, lower case."""
    return PurePosixPath(name.replace("\\", "/")).stem.lower()
