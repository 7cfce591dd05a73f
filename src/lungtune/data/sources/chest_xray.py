"""Paediatric pneumonia set of Kermany et al. (2018), as distributed by Kaggle and Mendeley Data.

Both layouts are `{train,test[,val]}/{NORMAL,PNEUMONIA}/`; they differ in file names (Kaggle:
`person12_bacteria_46.jpeg`, `IM-0115-0001.jpeg`; Mendeley: `BACTERIA-1008087-0001.jpeg`). Three classes come from
the names: normal, bacterial, viral.

Person numbers may restart in the test part, so test is a name space of its own: `train/person12` and
`test/person12` are two patients. The 16-image validation part was cut from training and shares its numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.data.sources import _masks, _names
from lungtune.data.sources._files import elsewhere, folders, images, kermany_patient, named, nested, require_folder
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "paediatric chest X-rays of Kermany et al. (Kaggle or Mendeley folder): normal, bacterial, viral"
OPTIONS = dict(_masks.OPTION)
PATHS = _masks.PATHS
CLASSES = ("normal", "bacterial", "viral")


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set below `path`.

    Raises:
        DataError: no such layout below `path`, no images, or files whose name does not tell their class.
    """
    from lungtune.data.cases import table

    root = _root(require_folder(path, "chest_xray"))
    rows, unclear = [], []
    for part in folders(root):
        split = _names.part(part.name)
        if split is None:
            continue
        for group in folders(part):
            kind = group.name.lower()
            if kind not in ("normal", "pneumonia"):
                continue
            for file in images(group):
                name = f"{split}/{kind}/{file.relative_to(group).as_posix()}"
                label = _label(kind, file.name)
                if label is None:
                    unclear.append(file.relative_to(root).as_posix())
                    continue
                space = "test" if split == "test" else "train"
                patient = kermany_patient(file.name)
                rows.append(
                    {
                        "case_id": name,
                        "path": str(file),
                        "label": label,
                        "patient_id": f"{space}/{patient}" if patient else None,
                        "source": "chest_xray",
                        "split": split,
                    }
                )
    if unclear:
        raise DataError(
            "A file in PNEUMONIA must name 'bacteria' or 'virus', and a file in NORMAL must name neither, but "
            f"{len(unclear)} {'does' if len(unclear) == 1 else 'do'} not: {named(unclear)}. "
            "Rename or remove them, or use folder:DIR with one folder per class."
        )
    if not rows:
        raise DataError(f"{root} has train and test folders but no PNG, JPEG or DICOM image in NORMAL or PNEUMONIA.")
    _masks.add_masks(rows, root, options)
    return table(rows, classes=CLASSES, restarts=True)


def _label(kind: str, name: str) -> str | None:
    """Return the class of a file in folder `kind`, or None when its name contradicts the folder or lacks the class."""
    lower = name.lower()
    named_bacteria, named_virus = "bacteria" in lower, "virus" in lower
    if kind == "normal":
        return None if named_bacteria or named_virus else "normal"
    if named_bacteria == named_virus:
        return None
    return "bacterial" if named_bacteria else "viral"


def _root(path: Path) -> Path:
    """Return the folder at or below `path` that holds the parts.

    Raises:
        DataError: there is none.
    """
    root = nested(path, _holds_parts)
    if root is not None:
        return root
    raise DataError(
        f"chest_xray needs a folder with train/NORMAL, train/PNEUMONIA, test/NORMAL and test/PNEUMONIA, but there is "
        f"none in {path}."
        + (elsewhere(path, "chest_xray", _holds_parts) or f" For one folder per class use folder:{path}.")
    )


def _holds_parts(folder: Path) -> bool:
    parts = [p for p in folders(folder) if _names.part(p.name)]
    return any(group.name.lower() in ("normal", "pneumonia") for part in parts for group in folders(part))
