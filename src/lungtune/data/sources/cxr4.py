"""Chest X-Ray (Pneumonia, Covid-19, Tuberculosis), four classes collected from several archives.

`{train,val,test}/{COVID19,NORMAL,PNEUMONIA,TURBERCULOSIS}/`, the last in either spelling. Files keep the names and
formats of the archives they came from, so names tell the patient only where Kermany et al. gave them, and the file
format may tell the class: the data check measures that. Those patients' numbers restart in the test part, as in
`chest_xray`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.sources import _masks, _names
from lungtune.data.sources._files import (
    elsewhere,
    folders,
    images,
    kermany_patient,
    named,
    nested,
    require_folder,
)
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "chest X-rays of four classes (Kaggle folder): normal, covid19, pneumonia, tuberculosis"
OPTIONS = dict(_masks.OPTION)
PATHS = _masks.PATHS
CLASSES = ("normal", "covid19", "pneumonia", "tuberculosis")
_FOLDERS = {
    "normal": "normal",
    "covid19": "covid19",
    "covid-19": "covid19",
    "covid": "covid19",
    "pneumonia": "pneumonia",
    "turberculosis": "tuberculosis",
    "tuberculosis": "tuberculosis",
}


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set below `path`.

    Raises:
        DataError: no such layout below `path`, a folder that is no class, no images, or see `_masks.add_masks`.
    """
    from lungtune.data.cases import table

    root = _root(require_folder(path, "cxr4"))
    rows: list[dict[str, Any]] = []
    for part in folders(root):
        split = _names.part(part.name)
        for group in folders(part) if split else ():
            label = _FOLDERS.get(group.name.lower())
            if label is None:
                if images(group):
                    raise DataError(
                        f"{group} must be one of the class folders {named(sorted(_FOLDERS))}, but it is not."
                    )
                continue
            for file in images(group):
                patient = kermany_patient(file.name)
                space = "test" if split == "test" else "train"
                rows.append(
                    {
                        "case_id": f"{split}/{label}/{file.relative_to(group).as_posix()}",
                        "path": str(file),
                        "label": label,
                        "patient_id": f"{space}/{patient}" if patient else None,
                        "source": "cxr4",
                        "split": split,
                    }
                )
    if not rows:
        raise DataError(f"{root} has part and class folders but no PNG, JPEG or DICOM image in them.")
    _masks.add_masks(rows, root, options)
    return table(rows, classes=CLASSES, restarts=True)


def _root(path: Path) -> Path:
    """Return the folder at or below `path` that holds the parts.

    Raises:
        DataError: there is none.
    """
    root = nested(path, _fits)
    if root is None:
        raise DataError(
            "cxr4 needs a folder with train, val and test, each with COVID19, NORMAL, PNEUMONIA and TURBERCULOSIS, but "
            f"there is none in {path}."
            + (elsewhere(path, "cxr4", _fits) or f" For one folder per class use folder:{path}.")
        )
    return root


def _fits(folder: Path) -> bool:
    parts = [part for part in folders(folder) if _names.part(part.name)]
    return any(group.name.lower() in _FOLDERS for part in parts for group in folders(part))
