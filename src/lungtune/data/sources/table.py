"""A CSV with one row per image.

Columns `path` and `label`; optional `patient_id`, `split`, `mask`, `text`. Paths are relative to the CSV's folder.
Comma, semicolon or tab separates. Without a column `patient_id`, DICOM images have the patient of their header. An
image is what its content says: a DICOM file needs no suffix here.
"""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.data.sources._files import SPLIT_NAMES, header_patient, require_file
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "a CSV of path, label and optionally patient_id, split, mask, text"
OPTIONS: dict[str, str] = {}
_COLUMNS = ("path", "label", "patient_id", "split", "mask", "text")


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the rows of the CSV at `path`.

    Raises:
        DataError: not readable as UTF-8 CSV, a column or value is missing, or a split is unknown.
    """
    from lungtune.data.cases import label_name, table

    file = require_file(path, "table", "FILE.csv")
    rows: list[dict[str, str | None]] = []
    lines: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            separator = next((s for s in ",;\t" if s in header), ",")
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
            for column in ("path", "label"):
                if column not in columns:
                    close = difflib.get_close_matches(column, [c for c in columns if c not in _COLUMNS], n=1)
                    hint = f" Rename '{close[0]}' to '{column}'." if close else ""
                    raise DataError(f"{file} must have a column '{column}', but its columns are {columns}.{hint}")
            patients = "patient_id" in columns
            reader = csv.DictReader(stream, fieldnames=columns, delimiter=separator)
            for row in reader:
                line = reader.line_num + 1
                values = {key: (value or "").strip() for key, value in row.items() if key and isinstance(value, str)}
                if not any(values.values()):
                    continue
                for column in ("path", "label"):
                    if not values.get(column):
                        raise DataError(f"{file}:{line}: every row must have a {column}, but this one has none.")
                case = Path(values["path"]).as_posix()
                if case in lines:
                    raise DataError(
                        f"{file}:{line}: each image must be listed once, but {case} is in line {lines[case]} too."
                    )
                lines[case] = line
                mask = values.get("mask")
                rows.append(
                    {
                        "case_id": case,
                        "path": str(file.parent / case),
                        "label": label_name(values["label"]),
                        "patient_id": values.get("patient_id")
                        or (None if patients else header_patient(file.parent / case)),
                        "source": "table",
                        "split": _split(values.get("split", ""), f"{file}:{line}"),
                        "mask_path": str(file.parent / mask) if mask else None,
                        "text": values.get("text") or None,
                    }
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} must be a CSV file in UTF-8, but it is not: {error}.") from error
    if not rows:
        raise DataError(f"{file} must have at least one row below its header, but it has none.")
    return table(rows)


def _split(text: str, where: str) -> str | None:
    if not text:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: split must be empty or one of {', '.join(SPLIT_NAMES)}, but got {text!r}.")
    return SPLIT_NAMES[text.lower()]
