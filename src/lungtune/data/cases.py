"""Case table: one row per image, with the same columns for every source.

| column       | meaning |
|--------------|---------|
| `case_id`    | unique and independent of the data's location: the path relative to the data's root, with `/` |
| `path`       | absolute path of the image |
| `label`      | class name, lower case; None in data without classes |
| `patient_id` | patient, or None where unknown |
| `source`     | name of the source format; after a colon the archive the image came from, where known |
| `split`      | the official part (train, validation, test), or None |
| `mask_path`  | absolute path of a lung mask, or None |
| `text`       | caption or report, or None |
| `labels`     | tuple of 0, 1, `UNCERTAIN` (0.5) or None (not stated) per name in `attrs["label_names"]`, or None |
| `table`      | tuple of a number or None (unknown) per name in `attrs["columns"]`, or None |
| `site`, `scanner`, `view`, `sex`, `age` | metadata, or None (see `lungtune.data.metadata`) |
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.fields import UNCERTAIN
from lungtune.data import metadata
from lungtune.data.patients import nobody
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_FIELDS = ("case_id", "path", "label", "patient_id", "source", "split", "mask_path", "text", "labels", "table")
COLUMNS = (*_FIELDS, *metadata.NAMES)
SPLITS = ("train", "validation", "test")
_REQUIRED = ("case_id", "path", "source")
_TUPLES = {"labels": "label_names", "table": "columns"}


def class_order(labels: Iterable[str | None]) -> tuple[str, ...]:
    """Return the distinct labels sorted, except that `normal` comes first; None is no label."""
    return tuple(sorted({label for label in labels if label is not None}, key=lambda label: (label != "normal", label)))


def label_name(name: str) -> str:
    """Return a folder's or table's class name as a label: lower case, blanks and hyphens between words as underscores.

    Hyphens elsewhere stay: `TB-` is not `TB`, and `-1` is not `1`.
    """
    return "_".join(re.sub(r"(?<=\w)\s*-[\s-]*(?=\w)", " ", name.strip().lower()).split())


def table(
    rows: Sequence[Mapping[str, Any]],
    *,
    classes: Sequence[str] | None = None,
    restarts: bool = False,
    label_names: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> pd.DataFrame:
    """Build the case table, sorted by `case_id`.

    Args:
        rows: one mapping per image; absent optional columns become None.
        classes: labels the source promises even if no image has them (kept in `attrs["classes"]`).
        restarts: True if the ids of the official test part may repeat those of other patients (kept in
            `attrs["restarts"]`).
        label_names: of the values in `labels` (kept in `attrs["label_names"]`).
        columns: of the values in `table` (kept in `attrs["columns"]`).

    Raises:
        DataError: see `validate`.
    """
    import pandas as pd

    values = {column: pd.Series([row.get(column) for row in rows], dtype=object) for column in COLUMNS}
    frame = pd.DataFrame(values).sort_values("case_id", ignore_index=True)
    frame.attrs = {"classes": list(class_order([*frame["label"], *(classes or ())])), "restarts": restarts}
    frame.attrs |= {"label_names": list(label_names), "columns": list(columns)}
    return validate(frame)


def validate(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the table with exactly `COLUMNS`, missing values as None.

    A patient id that names nobody (`patients.nobody`) is missing too; `attrs["placeholders"]` counts such ids.

    Raises:
        DataError: a column is missing, a required value is empty, some cases have a label and others none, a `case_id`
            is doubled, a split is unknown, a path is not UTF-8, or there is no case at all.
        ValueError: a tuple has not one value per name.
    """
    import pandas as pd

    missing = [column for column in _REQUIRED if column not in cases.columns]
    if missing:
        lacks = ", ".join(missing)
        raise DataError(f"A case table must have the columns {', '.join(_REQUIRED)}, but it lacks {lacks}.")
    if not len(cases):
        raise DataError("A data source must hold at least one image, but it holds none.")
    clean = cases.reindex(columns=list(COLUMNS)).astype(object)
    for column in clean.columns.difference(list(_TUPLES)):
        values = clean[column]
        clean[column] = values.where(values.notna() & (values != ""), None).replace({np.nan: None})
    for column, names in _TUPLES.items():
        rows = [row if isinstance(row, tuple) else None for row in clean[column]]
        clean[column] = pd.Series(rows, clean.index, dtype=object)
        width = len(cases.attrs.get(names, ()))
        if any(row is not None and len(row) != width for row in rows):
            raise ValueError(f"every row of {column} must have {width} values, one per name in attrs[{names!r}]")
    for column in (*_REQUIRED, *(["label"] if clean["label"].notna().any() else [])):
        empty = clean.index[clean[column].isna()]
        if len(empty):
            raise DataError(f"Every case must have a {column}, but row {empty[0] + 1} has none.")
    doubled = clean.loc[clean["case_id"].duplicated(), "case_id"]
    if len(doubled):
        raise DataError(f"Each image must be listed once, but {doubled.iloc[0]!r} is listed more than once.")
    odd = sorted(set(clean["split"].dropna()) - set(SPLITS))
    if odd:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, but got {odd[0]!r}.")
    _require_utf8(clean)
    placeholders = Counter(name for name in clean["patient_id"].dropna() if nobody(name))
    if placeholders:
        clean["patient_id"] = [None if name is None or nobody(name) else name for name in clean["patient_id"]]
        cases.attrs["placeholders"] = {**cases.attrs.get("placeholders", {}), **placeholders}
    clean.attrs = {**cases.attrs, "classes": list(class_order([*clean["label"], *cases.attrs.get("classes", ())]))}
    return clean.reset_index(drop=True)


def _require_utf8(cases: pd.DataFrame) -> None:
    """Raise DataError if a path is not UTF-8: neither JSON nor databases could hold it."""
    odd = []
    for path in cases["path"]:
        try:
            path.encode()
        except UnicodeEncodeError:
            odd.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
    if odd:
        raise DataError(
            f"Names of files and folders must be UTF-8, but {len(odd)} of {len(cases)} are not, first {odd[0]}. Rename "
            "them, as in convmv -f latin1 -t utf8."
        )


def classes_of(cases: pd.DataFrame) -> tuple[str, ...]:
    """Return all classes in label order, those the source promises but does not have included; none without labels."""
    return class_order([*cases["label"], *cases.attrs.get("classes", ())])


def traits(cases: pd.DataFrame) -> frozenset[str]:
    """Return the kinds of fields beside the image that any case has, and `uncertain` where a label is uncertain."""
    columns = {"label": "label", "mask": "mask_path", "text": "text", "labels": "labels", "table": "table"}
    held = {kind for kind, column in columns.items() if cases[column].notna().any()}
    uncertain = any(UNCERTAIN in row for row in cases["labels"] if row is not None)
    return frozenset({*held, *(["uncertain"] if uncertain else [])})


def strata(cases: pd.DataFrame) -> np.ndarray:
    """Return what a split is stratified by, `(N,)` str: the label; without one the rarest positive of the labels.

    A case without a positive label is in a stratum of its own, and so are all cases of data without any label.
    """
    if cases["label"].notna().any():
        return cases["label"].to_numpy(dtype=object)
    values = label_values(cases)
    counts = np.nansum(values, axis=0)
    names = np.array([*cases.attrs.get("label_names", ()), ""], dtype=object)
    positives = np.where(values == 1, counts, np.inf)
    rarest = np.concatenate([positives, np.full((len(cases), 1), len(cases) + 1.0)], axis=1).argmin(axis=1)
    return names[rarest]


def label_values(cases: pd.DataFrame) -> np.ndarray:
    """Return the labels as float64 `(N, L)`: 0 or 1, NaN where uncertain or unknown."""
    width = len(cases.attrs.get("label_names", ()))
    rows = [row or (None,) * width for row in cases["labels"]]
    values = np.array(rows, dtype=np.float64).reshape(len(cases), width)
    return np.where(values == UNCERTAIN, np.nan, values)
