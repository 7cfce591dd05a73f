"""COVID-19 Radiography Database: four classes with lung masks, collected from several archives.

`{COVID,Lung_Opacity,Normal,Viral Pneumonia}/{images,masks}/<Class>-<n>.png`, older releases without the last level,
and per class `<Class>.metadata.xlsx` with the URL of every image's origin. Patients are unknown; duplicates are
detected by image content. The archive goes into the column `source`, so that the audit measures how well it alone
predicts the class: no COVID image comes from an archive that also has normal ones.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lungtune.data.sources._files import elsewhere, folders, images, junk, nested, require_folder
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "COVID-19 Radiography Database with lung masks: normal, covid, lung_opacity, viral_pneumonia"
OPTIONS: dict[str, str] = {}
CLASSES = ("normal", "covid", "lung_opacity", "viral_pneumonia")


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the set below `path`.

    Raises:
        DataError: no such layout below `path`, no images, or a table is no Excel workbook.
    """
    from lungtune.data.cases import label_name, table

    top = require_folder(path, "covid_radiography")
    root = nested(top, _fits)
    if root is None:
        raise DataError(
            "covid_radiography needs a folder with COVID, Lung_Opacity, Normal and 'Viral Pneumonia', but there is "
            f"none in {top}."
            + (elsewhere(top, "covid_radiography", _fits) or f" For one folder per class use folder:{top}.")
        )
    groups, rows = _groups(root), list[dict[str, Any]]()
    for label, group in groups.items():
        inner = {p.name.lower(): p for p in folders(group)}
        masks = {_key(file.stem): file for file in images(inner["masks"])} if "masks" in inner else {}
        origins = _origins(root, label)
        for file in images(inner["images"]) if "images" in inner else images(group, below=False):
            origin = origins.get(_key(file.stem))
            mask = masks.get(_key(file.stem))
            rows.append(
                {
                    "case_id": f"{label_name(group.name)}/{file.name}",
                    "path": str(file),
                    "label": label,
                    "source": f"covid_radiography:{origin}" if origin else "covid_radiography",
                    "mask_path": str(mask) if mask else None,
                }
            )
    if not rows:
        raise DataError(f"{root} has class folders but no PNG, JPEG or DICOM image in them.")
    return table(rows, classes=list(groups))


def _fits(folder: Path) -> bool:
    return len(_groups(folder)) > 1


def _groups(folder: Path) -> dict[str, Path]:
    """Return label -> class folder, of those that are there."""
    from lungtune.data.cases import label_name

    return {label: p for p in folders(folder) if (label := label_name(p.name)) in CLASSES}


def _key(stem: str) -> str:
    """Return a name as both files and tables give it: tables have capitals, blanks or none before the number."""
    return re.sub(r"[\s_-]+", "-", stem.strip().lower())


def _origins(root: Path, label: str) -> dict[str, str]:
    """Return file key -> archive from a class's table; empty when there is none.

    Raises:
        DataError: the table is no Excel workbook.
    """
    from lungtune.data.cases import label_name

    suffix = ".metadata.xlsx"
    file = next((f for f in sorted(root.glob(f"*{suffix}")) if label_name(f.name.removesuffix(suffix)) == label), None)
    if file is None or junk(file.name):
        return {}
    import warnings

    import openpyxl

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        lines = [tuple(line) for line in book.active.iter_rows(values_only=True)]
        book.close()
    except Exception as error:  # openpyxl raises anything on damaged files
        raise DataError(
            f"{file} must be an Excel workbook, but it is not: {error}. Fetch it again or remove it."
        ) from error
    columns = [str(name or "").strip().upper() for name in lines[0]] if lines else []
    if "FILE NAME" not in columns or "URL" not in columns:
        raise DataError(
            f"{file} must have the columns FILE NAME and URL, but has {columns}. Fetch it again or remove it."
        )
    name, url = columns.index("FILE NAME"), columns.index("URL")
    return {_key(str(line[name])): _archive(str(line[url])) for line in lines[1:] if line[name] and line[url]}


def _archive(url: str) -> str:
    """Return host and at most two folders of an address: images of one archive share them."""
    split = urlsplit(url if "//" in url else f"//{url}")
    return "/".join([split.netloc.removeprefix("www."), *[p for p in split.path.split("/") if p][:2]])
