"""CheXpert (Irvin et al. 2019): 224,316 images of 65,240 patients, 14 labels of 1, 0, -1 (uncertain) or blank.

`train.csv` and `valid.csv` (radiologists' consensus), and where it has been obtained `test.csv`; each with `Path`, such
as `CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg`, relative to the parent of the folder of the tables
or, without its first part, to that folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lungtune.data.inventory import Inventory
from lungtune.data.sources import _labelled, _published
from lungtune.data.sources._labelled import CHEXPERT, Record
from lungtune.data.sources._located import Locator
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "CheXpert: 14 labels a case, some of them uncertain; official validation part, patients"
OPTIONS = {**_labelled.OPTIONS, **_labelled.BLANK}
_TABLES = {"train.csv": "train", "valid.csv": "validation", "test.csv": "test"}
_USES = {"Path": "path", "Sex": "sex", "Age": "age", "Frontal/Lateral": "view", "AP/PA": "view"}


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images that the tables list.

    Raises:
        DataError: no such folder or table, a label has another value, a path names no patient, or no image is there.
    """
    root = _published.folder_with(path, "chexpert", "train.csv")
    inventory = Inventory(patients="the folder 'patientN' of the path")
    blank = _labelled.blank_value(options, inventory)
    records = _records(root, blank, inventory)
    return _labelled.cases_of("chexpert", records, CHEXPERT, options, inventory, root)


def _records(root: Path, blank: float | None, inventory: Inventory) -> Iterator[Record]:
    """Yield every row of all tables."""
    below, beside = Locator(root), Locator(root.parent)
    for pattern, part in _TABLES.items():
        if not _published.tables(root, pattern):
            continue
        content = _published.one_table(root, pattern, ("Path", *CHEXPERT), _USES)
        _labelled.note_columns(inventory, content, _USES, CHEXPERT)
        for k, (_, row) in enumerate(content):
            where = content.where(k)
            names = PurePosixPath(row["Path"].replace("\\", "/")).parts
            patient = next((name for name in names if name.startswith("patient")), None)
            if patient is None:
                raise DataError(f"{where}: Path must have a folder 'patientN', but got {row['Path']!r}.")
            first = next(i for i, name in enumerate(names) if name in ("train", "valid", "test", patient))
            case = "/".join(names[first:])
            written = "/".join(names)
            file = below.find(case) or beside.find(written) or below.find(written)
            labels = {name: _labelled.uncertain(row[name], where, name, blank) for name in CHEXPERT}
            about = {"sex": row.get("Sex", ""), "age": row.get("Age", ""), "view": _view(row)}
            yield Record(case, file, labels, patient, part, about=about)


def _view(row: dict[str, str]) -> str:
    """Return AP or PA of frontal images, `FRONTAL` where neither is stated, or `LATERAL`."""
    side = row.get("Frontal/Lateral", "").upper()
    return "LATERAL" if side == "LATERAL" else row.get("AP/PA", "") or side
