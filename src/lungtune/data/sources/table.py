"""CSV source with one row per image or volume.

Column `path`; optional `label`, `patient_id`, `split`, `mask`, `text`. Paths are relative to the CSV's folder. Comma,
semicolon or tab separates. Without a column `patient_id`, DICOM images have the patient of their header. The format is
detected from a file's content: a DICOM file needs no suffix here.

`labels=a|b` names columns of 0, 1, -1 or blank: several labels of each case, which need not exclude one another; -1 is
uncertain, as CheXpert writes it, and blank is unknown. `columns=a|b` names columns of numbers or blank. Without `label`
there are no classes: such data serve segmentation, several labels, or models without either.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.fields import UNCERTAIN
from lungtune.data.sources._files import SPLIT_NAMES, header_patient, require_file
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "a CSV of path and optionally label, patient_id, split, mask, text, and columns of labels or numbers"
OPTIONS = {
    "labels": "columns of 0, 1 or blank (unknown), as in edema|effusion: several labels of each case",
    "columns": "columns of numbers or blank (unknown), as in age|sex: a table beside each case",
}
_COLUMNS = ("path", "label", "patient_id", "split", "mask", "text")


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the rows of the CSV at `path`.

    Raises:
        DataError: not readable as UTF-8 CSV, a column or value is missing, a split is unknown, or a value of `labels`
            or `columns` is no such number.
    """
    from lungtune.data.cases import label_name, table

    file = require_file(path, "table", "FILE.csv")
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            separator = next((s for s in ",;\t" if s in header), ",")
            columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
            labels = _chosen("labels", options, columns, file)
            numbers = _chosen("columns", options, columns, file)
            required = _required(columns, bool(labels), file)
            patients = "patient_id" in columns
            for line, values in _lines(stream, columns, separator):
                where = f"{file}:{line}"
                for column in required:
                    if not values.get(column):
                        raise DataError(f"{where}: every row must have a {column}, but this one has none.")
                case = Path(values["path"]).as_posix()
                if case in lines:
                    raise DataError(
                        f"{where}: each image must be listed once, but {case} is in line {lines[case]} too."
                    )
                lines[case] = line
                mask = values.get("mask")
                rows.append(
                    {
                        "case_id": case,
                        "path": str(file.parent / case),
                        "label": label_name(values["label"]) if "label" in required else None,
                        "patient_id": values.get("patient_id")
                        or (None if patients else header_patient(file.parent / case)),
                        "source": "table",
                        "split": _split(values.get("split", ""), where),
                        "mask_path": str(file.parent / mask) if mask else None,
                        "text": values.get("text") or None,
                        "labels": tuple(_label(values.get(name, ""), name, where) for name in labels) or None,
                        "table": tuple(_number(values.get(name, ""), name, where) for name in numbers) or None,
                    }
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} must be a CSV file in UTF-8, but it is not: {error}.") from error
    if not rows:
        raise DataError(f"{file} must have at least one row below its header, but it has none.")
    return table(rows, label_names=[label_name(name) for name in labels], columns=numbers)


def _lines(stream: Any, columns: Sequence[str], separator: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and stripped values of every row that is not blank."""
    reader = csv.DictReader(stream, fieldnames=columns, delimiter=separator)
    for row in reader:
        values = {key: (value or "").strip() for key, value in row.items() if key and isinstance(value, str)}
        if any(values.values()):
            yield reader.line_num + 1, values


def _required(columns: Sequence[str], labelled: bool, file: Path) -> tuple[str, ...]:
    """Return the columns that every row must fill: `path`, and `label` where there is one.

    Raises:
        DataError: there is no `path`, or `label` seems to be misspelt.
    """
    for column in ("path", "label"):
        if column not in columns:
            close = difflib.get_close_matches(column, [c for c in columns if c not in _COLUMNS], n=1)
            if column == "label" and (labelled or not close):
                return ("path",)
            hint = f" Rename '{close[0]}' to '{column}'." if close else ""
            raise DataError(f"{file} must have a column '{column}', but its columns are {list(columns)}.{hint}")
    return ("path", "label")


def _chosen(option: str, options: dict[str, str], columns: Sequence[str], file: Path) -> tuple[str, ...]:
    """Return the columns that an option names.

    Raises:
        DataError: it names none, one twice, one that has a meaning of its own, or one that is not there.
    """
    if option not in options:
        return ()
    names = [name.strip().lower() for name in options[option].split("|")]
    if not all(names):
        raise DataError(f"{option} must name columns, as in {option}=a|b, but got {options[option]!r}.")
    if len(set(names)) < len(names):
        raise DataError(f"{option} must name each column once, but got {options[option]!r}.")
    for name in names:
        if name in _COLUMNS:
            raise DataError(f"{option} must name further columns, but '{name}' has a meaning of its own.")
        if name not in columns:
            free = [column for column in columns if column not in _COLUMNS]
            raise DataError(
                f"{file} must have the column '{name}' that {option} names, but its columns are {list(columns)}."
                f"{did_you_mean(name, free) if free else ''}"
            )
    return tuple(names)


def _label(text: str, name: str, where: str) -> float | None:
    value = _parsed(text)
    if value in (0.0, 1.0):
        return value
    if value == -1.0:
        return UNCERTAIN
    if not text:
        return None
    raise DataError(f"{where}: {name} must be 0, 1, -1 (uncertain) or blank (unknown), but got {text!r}.")


def _number(text: str, name: str, where: str) -> float | None:
    value = _parsed(text)
    if value is None and text:
        raise DataError(f"{where}: {name} must be a number or blank, but got {text!r}; write categories as numbers.")
    return value


def _parsed(text: str) -> float | None:
    """Return a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _split(text: str, where: str) -> str | None:
    if not text:
        return None
    if text.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: split must be empty or one of {', '.join(SPLIT_NAMES)}, but got {text!r}.")
    return SPLIT_NAMES[text.lower()]
