"""Class folders, with or without part folders above them.

`DIR/<class>/...` or `DIR/{train,val,test}/<class>/...`. A class folder that holds `images/` and `masks/` is read
that way: `masks/` are lung masks of the same file name, never training images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.sources import _masks
from lungtune.data.sources._files import SPLIT_NAMES, folders, header_patient, images, require_folder, unwrap
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "class folders, optionally below train/val/test folders"
OPTIONS = {
    "patient": "regular expression on the file name; its first group is the patient id (default: of DICOM headers)",
    **_masks.OPTION,
}
PATHS = _masks.PATHS


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the class folders below `path`.

    Raises:
        DataError: no class folder, no images, part and class folders mixed, or a wrong `patient` expression.
    """
    from lungtune.data.cases import label_name, table

    root = unwrap(require_folder(path, "folder"))
    pattern = _pattern(options.get("patient"))
    below = folders(root)
    parts = {p: SPLIT_NAMES.get(p.name.lower()) for p in below}
    groups: list[tuple[str | None, Path]]
    if any(parts.values()):
        strangers = [p.name for p, split in parts.items() if split is None and images(p)]
        if strangers:
            raise DataError(
                f"{root} must hold either class folders or part folders, but it holds both: "
                f"'{strangers[0]}' beside '{next(p.name for p, s in parts.items() if s)}'."
            )
        groups = [(split, group) for p, split in parts.items() if split for group in folders(p)]
    else:
        groups = [(None, group) for group in below]
    if not groups:
        what = f"{len(images(root))} images lie in it directly" if images(root) else "it has no folders"
        raise DataError(f"{root} must hold one folder of images per class, but {what}.")
    rows: list[dict[str, Any]] = []
    for split, group in groups:
        for file, mask in _pairs(group):
            rows.append(
                {
                    "case_id": file.relative_to(root).as_posix(),
                    "path": str(file),
                    "label": label_name(group.name),
                    "patient_id": _patient(file, pattern),
                    "source": "folder",
                    "split": split,
                    "mask_path": str(mask) if mask else None,
                }
            )
    if not rows:
        raise DataError(f"{root} has class folders but no PNG, JPEG or DICOM image in them.")
    _masks.add_masks(rows, root, options)
    return table(rows, classes=[label_name(group.name) for _, group in groups])


def _patient(file: Path, pattern: re.Pattern[str] | None) -> str | None:
    if pattern is None:
        return header_patient(file)
    match = pattern.search(file.name)
    return (match.group(1) if match.groups() else match.group(0)) if match else None


def _pairs(group: Path) -> list[tuple[Path, Path | None]]:
    inner = {p.name.lower(): p for p in folders(group)}
    if "images" not in inner or "masks" not in inner:
        return [(file, None) for file in images(group)]
    masks = {file.stem: file for file in images(inner["masks"])}
    return [(file, masks.get(file.stem)) for file in images(inner["images"])]


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(f"patient must be a regular expression, but {text!r} is not: {error}.") from error
