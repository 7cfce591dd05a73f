"""Metadata of cases: site, scanner, view, sex, age. For subgroups, folds by site, and the search for leaks.

| name      | values | DICOM tags |
|-----------|--------|------------|
| `site`    | as written | InstitutionName |
| `scanner` | as written: maker and model | Manufacturer, ManufacturerModelName |
| `view`    | upper case, such as `AP`, `PA`, `LATERAL` | ViewPosition |
| `sex`     | `female`, `male`, else as written in lower case | PatientSex |
| `age`     | years, float, 0..120 | PatientAge |

Unknown is None. Headers are read once: their tags are kept in `headers-1.sqlite` in the cache folder, keyed by absolute
path, size and modification time.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from lungtune.core import paths
from lungtune.core.io import track
from lungtune.data.patients import nobody
from lungtune.data.readers import dicom
from lungtune.data.readers.base import stamp

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("site", "scanner", "view", "sex", "age")
_TAGS = {
    "site": ("InstitutionName",),
    "scanner": ("Manufacturer", "ManufacturerModelName"),
    "view": ("ViewPosition",),
    "sex": ("PatientSex",),
    "age": ("PatientAge",),
}
_SEXES = {
    "m": "male",
    "male": "male",
    "man": "male",
    "f": "female",
    "female": "female",
    "woman": "female",
    "o": "other",
}
_YEARS = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
_SCHEMA = "CREATE TABLE IF NOT EXISTS headers (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, tags TEXT)"


def value(name: str, text: str) -> str | float | None:
    """Return a value as in the table above; None where it is unknown, or not an age.

    Args:
        name: one of `NAMES`.
        text: as a table or a header has it; ages in years or as in DICOM (`045Y`, `018M`).
    """
    text = " ".join(text.split())
    if name == "age":
        return _age(text)
    if nobody(text) or (name == "sex" and text.lower() in ("u", "unknown")):
        return None
    if name == "sex":
        return _SEXES.get(text.lower(), text.lower())
    return text.upper() if name == "view" else text


def _age(text: str) -> float | None:
    match = re.fullmatch(r"(\d{1,4}(?:\.\d+)?)\s*([DWMYdwmy]?)(?:ears?)?", text)
    if not match:
        return None
    years = float(match[1]) / _YEARS[match[2].upper() or "Y"]
    return round(years, 2) if years <= 120 else None


def fill(cases: pd.DataFrame) -> pd.DataFrame:
    """Return the case table with metadata of DICOM headers where it has none."""
    files = [path for path in cases["path"] if os.path.splitext(path)[1].lower() in dicom.SUFFIXES]
    if not files:
        return cases
    known = headers(files)
    for name in NAMES:
        held = [_joined(name, known.get(path, {})) for path in cases["path"]]
        cases[name] = [new if old is None else old for old, new in zip(cases[name], held, strict=True)]
    return cases


def _joined(name: str, tags: Mapping[str, str]) -> str | float | None:
    return value(name, " ".join(filter(None, (tags.get(tag, "") for tag in _TAGS[name]))))


def headers(files: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the tags of DICOM files by path, empty where there is none; no pixels are read."""
    database = paths.cache() / "headers-1.sqlite"
    keys = {path: key for path in files if (key := stamp(path)) is not None}
    known: dict[str, dict[str, str]] = {}
    with suppress(OSError, sqlite3.Error, ValueError):
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            connection.execute(_SCHEMA)
            wanted = list(keys)
            for start in range(0, len(wanted), 900):
                batch = wanted[start : start + 900]
                marks = ",".join("?" * len(batch))
                for path, size, mtime, tags in connection.execute(
                    f"SELECT * FROM headers WHERE path IN ({marks})", batch
                ):
                    if keys[path] == (size, mtime):
                        known[path] = json.loads(tags)
    missing = [path for path in keys if path not in known]
    fresh = {path: dicom.tags(path) for path in track(missing, len(missing), "Reading DICOM headers")}
    with suppress(OSError, sqlite3.Error), closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        rows = [(path, *keys[path], json.dumps(tags)) for path, tags in fresh.items()]
        connection.executemany("INSERT OR REPLACE INTO headers VALUES (?, ?, ?, ?)", rows)
    return {**known, **fresh}


def columns(cases: pd.DataFrame, rows: Any) -> dict[str, tuple[Any, ...]]:
    """Return the metadata of some rows of the case table by name, without those that no case of the table has."""
    held = [name for name in NAMES if name in cases.columns and cases[name].notna().any()]
    return {name: tuple(cases[name].iloc[rows]) for name in held}
