"""Scan of all images and volumes for facts, cached.

Facts are cached in `facts-2.sqlite` in the cache folder, keyed by absolute path, size and modification time, so a
second scan opens nothing; volume-only facts are in a separate table. Unreadable files are not cached, so a repaired
file is read by the next scan. Files of earlier versions hold other facts and are not read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lungtune.core import paths as places
from lungtune.core.cache import HINT
from lungtune.core.io import log_stderr, track
from lungtune.data import readers
from lungtune.data.readers import images, volumes
from lungtune.data.readers.base import Facts, UnreadableImageError, read

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (*(field.name for field in fields(Facts)), "error")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
    path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, sha1 TEXT, pixels TEXT, width INTEGER, height INTEGER,
    mode TEXT, type TEXT, fingerprint BLOB
);
CREATE TABLE IF NOT EXISTS volumes (path TEXT PRIMARY KEY, depth INTEGER, channels INTEGER);
"""
_SELECT = "SELECT facts.*, depth, channels FROM facts LEFT JOIN volumes USING (path) WHERE facts.path IN ({})"
_VOI = "voi:"  # before the path of an image read through its VOI window; no absolute path begins so
Item = TypeVar("Item")


def scan(files: Sequence[str], *, voi: bool = False, what: str = "images") -> pd.DataFrame:
    """Return the facts of every file.

    Args:
        files: absolute paths.
        voi: apply the VOI window of DICOM images; their facts are cached apart.
        what: noun for the files in progress messages.

    Returns:
        A table indexed by path, in the order of `files`, with the fields of `Facts` and `error`: None, or why the file
        cannot be read (the other columns are then None).
    """
    import pandas as pd

    wanted = list(dict.fromkeys(files))
    keys = {path: _key(path) for path in wanted}
    known = _load(wanted, keys, voi)
    missing = [path for path in wanted if path not in known]
    stored = True
    for batch in _batched(track(_look(missing, voi), len(missing), f"Reading {what}"), 500):
        decoded = {path: result for path, result in batch if isinstance(result, Facts)}
        stored = stored and _store(decoded, keys, voi)  # a failure is reported once
        known.update({path: (*astuple(result), None) for path, result in decoded.items()})
        errors = {path: result for path, result in batch if isinstance(result, str)}
        known.update({path: (*(None,) * (len(COLUMNS) - 1), text) for path, text in errors.items()})
    columns = zip(*(known[path] for path in files), strict=True) if files else ((),) * len(COLUMNS)
    data = {name: pd.Series(list(column), dtype=object) for name, column in zip(COLUMNS, columns, strict=True)}
    table = pd.DataFrame(data)
    table.index = pd.Index(files, dtype=object, name="path")
    return table


def facts(path: str, *, voi: bool = False) -> Facts:
    """Read and decode one image or volume.

    Args:
        path: of the file.
        voi: apply the VOI window of DICOM images.

    Raises:
        UnreadableImageError: it cannot be read or decoded.
    """
    data = read(path)
    if readers.find(data, path).KIND == "volume":
        return volumes.describe(data, path)
    return images.describe(data, voi=voi)


def _look(files: Sequence[str], voi: bool) -> Iterator[tuple[str, Facts | str]]:
    def one(path: str) -> tuple[str, Facts | str]:
        try:
            return path, facts(path, voi=True) if voi else facts(path)
        except UnreadableImageError as error:
            return path, str(error)

    with images.decoders() as pool:
        for batch in _batched(files, 256):
            yield from pool.map(one, batch)


def _batched(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    stream = iter(items)
    while batch := tuple(islice(stream, size)):
        yield batch


def _key(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _database() -> Path:
    return places.cache() / "facts-2.sqlite"


def _connect() -> sqlite3.Connection:
    _database().parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(_database(), timeout=60)
    connection.executescript(_SCHEMA)
    return connection


def _load(files: Sequence[str], keys: dict[str, tuple[int, int] | None], voi: bool) -> dict[str, tuple[object, ...]]:
    prefix = _VOI if voi else ""
    known: dict[str, tuple[object, ...]] = {}
    try:
        with closing(_connect()) as connection:
            for batch in _batched(files, 900):
                marks = ",".join("?" * len(batch))
                names = [prefix + path for path in batch]
                for name, size, mtime, *values, depth, channels in connection.execute(_SELECT.format(marks), names):
                    path = name.removeprefix(prefix)
                    if keys[path] == (size, mtime):
                        kind = ("volume", depth, channels) if depth else ("image", 0, 1)
                        known[path] = (*values, *kind, None)
    except (OSError, sqlite3.OperationalError) as error:  # locked too long, or no right to write: go without
        log_stderr(f"The cache of image facts {_database()} cannot be used: {error}. {HINT}")
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        log_stderr(f"The cache of image facts {_database()} is damaged ({error}); rebuilding it.")
        _database().unlink(missing_ok=True)
        return {}
    return known


def _store(facts: dict[str, Facts], keys: dict[str, tuple[int, int] | None], voi: bool) -> bool:
    rows, deep = [], []
    for path, fact in facts.items():
        key, name = keys[path], (_VOI if voi else "") + path
        if key is not None:
            rows.append((name, *key, *astuple(fact)[:7]))
            deep.append((name, fact.depth, fact.channels))
    try:
        with closing(_connect()) as connection, connection:
            connection.executemany(f"INSERT OR REPLACE INTO facts VALUES ({','.join('?' * 10)})", rows)
            connection.executemany("DELETE FROM volumes WHERE path = ?", [(name,) for name, *_ in deep])
            connection.executemany("INSERT INTO volumes VALUES (?, ?, ?)", [row for row in deep if row[1]])
    except (OSError, sqlite3.DatabaseError) as error:
        log_stderr(f"The cache of image facts {_database()} cannot be written: {error}. {HINT}")
        return False
    return True
