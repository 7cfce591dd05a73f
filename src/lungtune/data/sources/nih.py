"""NIH ChestX-ray14 (Wang et al. 2017): 112,120 frontal images of 30,805 patients, 14 labels mined from reports.

`Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, images `images_001/images/00000001_000.png` to `images_012/...` or
in one folder, and the official lists `train_val_list.txt` and `test_list.txt`. `Finding Labels` joins labels by `|`;
`No Finding` is the absence of all 14, not a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _labelled
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
_TABLE = "Data_Entry_2017*.csv*"
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
    root = _labelled.folder_with(path, "nih", _TABLE)
    content = _labelled.one_table(root, _TABLE, ("Image Index", "Finding Labels", "Patient ID"))
    inventory = Inventory(patients="named in the column 'Patient ID'")
    _labelled.note_columns(inventory, content, _USES)
    files, parts = _labelled.by_name(root), _lists(root, inventory)
    listed = set(content["Image Index"])
    for name in files.keys() - listed:
        inventory.leave(f"not in {content.file.name}", Path(name).suffix.lower())
    return _labelled.cases_of("nih", _records(content, files, parts), LABELS, options, inventory, root)


def _records(content: Table, files: dict[str, str], parts: dict[str, str]) -> Iterator[Record]:
    """Yield every row.

    Raises:
        DataError: it has an unknown label, or one beside `No Finding`.
    """
    known = set(LABELS)
    for k, (_, row) in enumerate(content):
        words = [word.strip() for word in row["Finding Labels"].split("|") if word.strip()]
        for word in words:
            if word not in known and word != _NONE:
                raise DataError(
                    f"{content.where(k)}: Finding Labels must be among the 14 or {_NONE}, but got {word!r}."
                    f"{did_you_mean(word, LABELS)}"
                )
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


def _lists(root: Path, inventory: Inventory) -> dict[str, str]:
    """Return the official part of the images in the lists.

    Raises:
        DataError: an image is in both.
    """
    parts: dict[str, str] = {}
    lists = {"train": root / "train_val_list.txt", "test": root / "test_list.txt"}
    missing = [file.name for file in lists.values() if not file.is_file()]
    if missing:
        sentence = f"There is no {' and no '.join(missing)}, so all parts are drawn."
        inventory.guesses.append(Guess("parts", sentence))
        return parts
    for part, file in lists.items():
        for name in file.read_text(encoding="utf-8-sig").split():
            if parts.setdefault(name, part) != part:
                raise DataError(f"An image must be in one official list, but {name} is in both.")
    return parts
