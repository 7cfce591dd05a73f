"""Schema, versions and repair of the MLflow tracking store."""

from __future__ import annotations

import ast
import contextlib
import errno
import logging
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from lungtune.core.io import private_folder, waiting
from lungtune.errors import LungtuneError, StudyError
from lungtune.tracking import location

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""No output on the terminal, which the live view owns; no telemetry."""

REQUEST_LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""Timeout of a request in seconds, without retries (MLflow's default: 120 s, 7 retries); the tracker retries."""


def settle_environment() -> None:
    """Set MLflow to little output and short timeouts in this process, where the user has set nothing."""
    for name, value in {**QUIET, **REQUEST_LIMITS}.items():
        os.environ.setdefault(name, value)


PATIENCE = 20.0
"""Seconds to wait for an SQLite file that another process has locked."""

ROOM = 1 << 20
"""Bytes that a new store's disk must have left."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Unreachable(LungtuneError):
    """The store can't take anything now: down, hung, locked, full; try again later."""


def client(uri: str) -> MlflowClient:
    """Import MLflow (about 3 s) and return a client of a store whose schema is there.

    Raises:
        StudyError: the store was written by another version of MLflow, can't be created, or lacks a library.
        Unreachable: the store is locked, or its disk is full.
    """
    settle_environment()
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    prepare(uri)
    try:
        return MlflowClient(tracking_uri=uri)
    except MlflowException as error:  # such as a server's scheme that a plugin would serve
        raise StudyError(f"MLflow does not take {location.without_password(uri)}: {error.message}") from error
    except ImportError as error:
        raise StudyError(f"{location.without_password(uri)} needs a library that is missing: {error}.") from error


def check_folder(uri: str) -> None:
    """Refuse plain folders, which MLflow 3 no longer writes.

    Raises:
        StudyError: ``uri`` names one.
    """
    if uri.startswith(("file:", ".", "/", "~")):
        raise StudyError(
            f"MLFLOW_TRACKING_URI must name a database or a server, but got '{uri}': MLflow 3 no longer writes plain "
            f"folders. Take for example sqlite:///{uri.removeprefix('file:').rstrip('/') or ''}/mlflow.db."
        )


def prepare(uri: str) -> None:
    """Create a local store's schema if it has none yet; in a store that was moved, mend the addresses of its files.

    MLflow migrates an empty database table by table; two processes at it, or one that is killed, leave a file that
    no MLflow opens again. So one process at a time builds the database in a temporary file, which is then renamed.

    Raises:
        StudyError: the file is incomplete, of another MLflow version, or its folder can't be written.
        Unreachable: the file is locked, or the disk is full.
    """
    check_folder(uri)
    path = location.sqlite_path(uri)
    if path is None:
        return
    try:
        private_folder(path.parent)
        with waiting(path.with_name(path.name + ".lock"), f"prepares the store {path}"):
            if not path.exists() or path.stat().st_size == 0:
                _build(path)
            check_version(path)
            _relocate(path)
    except OSError as error:
        if error.errno in _FULL:
            raise Unreachable(f"{path.parent}: {error.strerror}") from error
        raise StudyError(f"{path.parent} must be writable for MLflow's store, but: {error.strerror}.") from error


def _build(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    new = path.with_name(f".{path.name}.new")
    _remove(new)
    try:
        with _hushed():
            artifacts = path.parent.joinpath("artifacts").resolve().as_uri()
            SqlAlchemyStore(location.sqlite_uri(new), artifacts).engine.dispose()
    except SQLAlchemyError as error:  # MLflow tries on after the first error, and raises the last
        full = shutil.disk_usage(path.parent).free < ROOM
        _remove(new)
        why = "the disk is full" if full else getattr(error, "orig", None) or error
        raise Unreachable(f"{path} could not be made: {why}") from error
    os.replace(new, path)


def _remove(draft: Path) -> None:
    for stale in draft.parent.iterdir():
        if stale.name.startswith(draft.name):
            stale.unlink()


def check_version(path: Path, timeout: float = PATIENCE) -> None:
    """Check that an SQLite file is a store of the installed MLflow; MLflow is not imported.

    Raises:
        StudyError: it is not.
        Unreachable: the file is locked.
    """
    downs = _migrations()
    heads = downs.keys() - {each for down in downs.values() for each in down}
    revision, version = _revision(path, timeout), metadata.version("mlflow")
    if revision in heads:
        return
    if revision is None:
        raise StudyError(
            f"{path} holds no complete MLflow store (its creation was cut short, or it is another database). "
            f"Move it away; the runs of every study are rebuilt by 'lungtune ui --sync STUDY'."
        )
    if revision in downs:
        raise StudyError(
            f"{path} was written by an older MLflow than {version}. Copy the file, then bring it up to "
            f"date with 'mlflow db upgrade {location.sqlite_uri(path)}'."
        )
    raise StudyError(
        f"{path} was written by a newer MLflow than {version}. Update mlflow, or move the file away and "
        f"rebuild the runs with 'lungtune ui --sync STUDY'."
    )


def _migrations() -> dict[str, tuple[str, ...]]:
    """Return the revisions of MLflow's schema, each with those before it; read from Alembic's files, none is run."""
    spec = util.find_spec("mlflow")
    (folder,) = (spec and spec.submodule_search_locations) or ("",)
    downs: dict[str, tuple[str, ...]] = {}
    for file in Path(folder, "store", "db_migrations", "versions").glob("*.py"):
        found: dict[str, object] = {}
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(value := getattr(node, "value", None), ast.Constant | ast.Tuple):
                found |= {target.id: ast.literal_eval(value) for target in targets if isinstance(target, ast.Name)}
        before = found.get("down_revision")
        if "revision" in found:
            downs[str(found["revision"])] = before if isinstance(before, tuple) else (str(before),) if before else ()
    return downs


def _revision(path: Path, timeout: float) -> str | None:
    """Return the revision of a file's schema; None where it has none."""
    try:
        with contextlib.closing(connect(path, write=False, timeout=timeout)) as database:
            row = database.execute("select version_num from alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        if locked(error):
            raise Unreachable(f"{path} is locked by another process") from error
        return None
    return row[0] if row else None


def connect(path: Path, *, write: bool, timeout: float = PATIENCE) -> sqlite3.Connection:
    """Open an SQLite file that exists.

    One that a killed process left in the midst of a transaction is opened for writing where that is possible: SQLite
    must undo the transaction before the first reading.
    """
    write = write or (path.with_name(f"{path.name}-journal").exists() and os.access(path, os.W_OK))
    return sqlite3.connect(f"file:{quote(str(path))}?mode={'rw' if write else 'ro'}", timeout=timeout, uri=True)


def locked(error: sqlite3.Error) -> bool:
    """True if another process has the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


_ROOT = re.compile(r"(file://.*/artifacts)(?:/\d+)?")
_FILES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"))


def _relocate(path: Path) -> None:
    """Let the addresses of files, which MLflow keeps as absolute paths, follow a store that was moved or copied.

    Addresses of folders that have no store beside them, such as a server's own, stay.
    """
    here = path.parent.joinpath("artifacts").resolve().as_uri()
    ours = (
        "select distinct artifact_location from experiments join experiment_tags using (experiment_id) "
        "where key = 'lungtune.experiment'"
    )
    try:
        with contextlib.closing(connect(path, write=True)) as database, database:
            roots = {found[1] for (old,) in database.execute(ours) if (found := _ROOT.fullmatch(str(old)))}
            for root in roots - {here}:
                old = Path(unquote(root.removeprefix("file://")))
                if old.exists() and not old.with_name(path.name).exists():
                    continue
                for table, column in _FILES:
                    below = f"substr({column} || '/', 1, ?) = ?"
                    text = f"update {table} set {column} = ? || substr({column}, ?) where {below}"
                    database.execute(text, (here, len(root) + 1, len(root) + 1, f"{root}/"))
    except sqlite3.DatabaseError as error:  # locked or read-only: the client meets it again, and says so
        logging.getLogger(__name__).debug("addresses of files were not checked: %s", error)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep Alembic's and MLflow's migration notes off the terminal."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow", "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
