"""Scan of all images and volumes for facts, cached.

Facts are cached in `facts-2.sqlite` in the cache folder, keyed by absolute path, size and modification time, so a
second scan opens nothing. Its columns are the fields of `Facts`; a table with others is dropped, and filled anew.
Unreadable files are not cached, so a repaired file is read by the next scan. A file changed in place, of the same size
and time, is noticed by a scan with `fresh`, or when its pixels are decoded, and `forget` drops its facts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lungtune.core import paths as places
from lungtune.core.cache import HINT
from lungtune.core.io import log_stderr, track
from lungtune.data import readers
from lungtune.data.readers import images, volumes
from lungtune.data.readers.base import Facts, UnreadableImageError, read, stamp

if TYPE_CHECKING:
    import pandas as pd

_FIELDS = tuple(field.name for field in fields(Facts))
COLUMNS = (*_FIELDS, "error")
_VALUES = attrgetter(*_FIELDS)  # dataclasses.astuple copies deeply
_KEYS = ("path", "voi", "size", "mtime")
_SCHEMA = f"CREATE TABLE facts ({', '.join((*_KEYS, *_FIELDS))}, PRIMARY KEY (path, voi)) WITHOUT ROWID"
_SELECT = f"SELECT path, size, mtime, {', '.join(_FIELDS)} FROM facts WHERE voi = ? AND path IN ({{}})"
_INSERT = f"INSERT OR REPLACE INTO facts VALUES ({', '.join('?' * (len(_KEYS) + len(_FIELDS)))})"
Row = tuple[object, ...]
Keep = Callable[[str, np.ndarray], None]
Item = TypeVar("Item")


def scan(
    files: Sequence[str],
    *,
    voi: bool = False,
    what: str = "images",
    fresh: bool = False,
    size: int | None = None,
    keep: Keep | None = None,
) -> pd.DataFrame:
    """Return the facts of every file.

    Args:
        files: absolute paths.
        voi: apply the VOI window of DICOM images; their facts are cached apart.
        what: noun for the files in progress messages.
        fresh: read every file, whatever is cached.
        size: side in pixels of the letterboxes for `keep`.
        keep: receives digest and letterbox, uint8 `(size, size)`, of the images that are decoded in full here.

    Returns:
        A table indexed by path, in the order of `files`, with the fields of `Facts` and `error`: None, or why the file
        cannot be read (the other columns are then None). With `fresh`, `attrs["changed"]` lists the files of the cached
        size and time whose content is another.
    """
    import pandas as pd

    wanted = list(dict.fromkeys(files))
    keys = {path: stamp(path) for path in wanted}
    cached = _load(wanted, keys, voi)
    known = {} if fresh else cached
    missing = [path for path in wanted if path not in known]
    stored, changed = True, []
    for batch in _batched(track(_look(missing, voi, size if keep else None), len(missing), f"Reading {what}"), 500):
        decoded: dict[str, Facts] = {}
        for path, result, letterbox in batch:
            if isinstance(result, str):
                known[path] = (*(None,) * len(_FIELDS), result)
                continue
            decoded[path] = result
            if path in cached and cached[path][0] != result.sha1:
                changed.append(path)
            if keep and letterbox is not None:
                keep(result.sha1, letterbox)
        stored = stored and _store(decoded, keys, voi)  # a failure is reported once
        known.update({path: (*_VALUES(result), None) for path, result in decoded.items()})
    columns = zip(*(known[path] for path in files), strict=True) if files else ((),) * len(COLUMNS)
    data = {name: pd.Series(list(column), dtype=object) for name, column in zip(COLUMNS, columns, strict=True)}
    table = pd.DataFrame(data)
    table.index = pd.Index(files, dtype=object, name="path")
    table.attrs["changed"] = changed
    return table


def facts(path: str, *, voi: bool = False) -> Facts:
    """Read and decode one image or volume; see `describe`."""
    return describe(path, voi=voi)[0]


def describe(path: str, *, voi: bool = False, size: int | None = None) -> tuple[Facts, np.ndarray | None]:
    """Read and decode one image or volume.

    Args:
        path: of the file.
        voi: apply the VOI window of DICOM images.
        size: see `images.describe`; volumes have no letterbox.

    Raises:
        UnreadableImageError: it cannot be read or decoded.
    """
    data = read(path)
    if readers.find(data, path).KIND == "volume":
        return volumes.describe(data, path), None
    return images.describe(data, path, voi=voi, size=size)


def forget(paths: Sequence[str]) -> None:
    """Drop the cached facts of files; the next scan reads them."""
    try:
        with closing(_connect()) as connection, connection:
            connection.executemany("DELETE FROM facts WHERE path = ?", [(path,) for path in paths])
    except (OSError, sqlite3.DatabaseError):  # a cache that cannot be used holds no facts either
        return


def _look(files: Sequence[str], voi: bool, size: int | None) -> Iterator[tuple[str, Facts | str, np.ndarray | None]]:
    def one(path: str) -> tuple[str, Facts | str, np.ndarray | None]:
        try:
            return path, *describe(path, voi=voi, size=size)
        except UnreadableImageError as error:
            return path, str(error), None

    def several(paths: Sequence[str]) -> list[tuple[str, Facts | str, np.ndarray | None]]:
        return [one(path) for path in paths]

    with images.decoders() as pool:
        for batch in _batched(files, 256):
            for results in pool.map(several, _batched(batch, 4)):  # handing small files over one by one costs time
                yield from results


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    stream = iter(items)
    while batch := tuple(islice(stream, size)):
        yield batch


def _database() -> Path:
    return places.cache() / "facts-2.sqlite"


def _connect() -> sqlite3.Connection:
    file = _database()
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.with_name("facts-1.sqlite").unlink(missing_ok=True)  # of an earlier version
    connection = sqlite3.connect(file, timeout=60)
    columns = tuple(name for _, name, *_ in connection.execute("PRAGMA table_info(facts)"))
    if columns != (*_KEYS, *_FIELDS):
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DROP TABLE IF EXISTS facts")
            connection.execute(_SCHEMA)
    return connection


def _load(files: Sequence[str], keys: dict[str, tuple[int, int] | None], voi: bool) -> dict[str, Row]:
    known: dict[str, Row] = {}
    try:
        with closing(_connect()) as connection:
            for batch in _batched(files, 900):
                marks = ",".join("?" * len(batch))
                for path, size, mtime, *values in connection.execute(_SELECT.format(marks), (voi, *batch)):
                    if keys[path] == (size, mtime):
                        known[path] = (*values, None)
    except (OSError, sqlite3.OperationalError) as error:  # locked too long, or no right to write: go without
        log_stderr(f"The cache of image facts {_database()} cannot be used: {error}. {HINT}")
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        log_stderr(f"The cache of image facts {_database()} is damaged ({error}); rebuilding it.")
        _database().unlink(missing_ok=True)
        return {}
    return known


def _store(facts: dict[str, Facts], keys: dict[str, tuple[int, int] | None], voi: bool) -> bool:
    rows = []
    for path, fact in facts.items():
        key = keys[path]
        if key is not None:
            rows.append((path, voi, *key, *_VALUES(fact)))
    try:
        with closing(_connect()) as connection, connection:
            connection.executemany(_INSERT, rows)
    except (OSError, sqlite3.DatabaseError) as error:
        log_stderr(f"The cache of image facts {_database()} cannot be written: {error}. {HINT}")
        return False
    return True
