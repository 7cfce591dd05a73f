"""Location and repair of the MLflow tracking store."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lungtune.core import paths
from lungtune.core.io import private_folder, waiting
from lungtune.errors import StudyError

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


def state_folder() -> Path:
    """Return the folder of the local store: ``<home>/mlflow/state``."""
    return paths.home() / "mlflow" / "state"


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the local store's SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_folder() / 'mlflow.db'}"


def is_remote(uri: str) -> bool:
    """True if ``uri`` names a server rather than a file or a database."""
    return urlsplit(uri).scheme in ("http", "https", "databricks")


def without_password(uri: str) -> str:
    """Return ``uri`` as it may be printed."""
    head, at, tail = uri.rpartition("@")
    return f"{head.partition('://')[0]}://***@{tail}" if at else uri


def artifact_location(uri: str) -> str | None:
    """Return where experiments of a database keep their files; ``None`` leaves it to the server.

    MLflow's own choice for a database would be ``./mlruns``, which is somewhere else in every shell.
    """
    if is_remote(uri):
        return None
    database = sqlite_path(uri)
    return (database.parent if database else state_folder()).joinpath("artifacts").resolve().as_uri()


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI, ``None`` for anything else."""
    return paths.expanded(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def log_file(uri: str) -> Path:
    """Return the log file of the store's server."""
    database = sqlite_path(uri)
    folder = database.parent if database else state_folder()
    private_folder(folder)
    return folder / "server.log"


def settle_environment() -> None:
    """Set MLflow to little output and short timeouts in this process, where the user has set nothing."""
    for name, value in {**QUIET, **REQUEST_LIMITS}.items():
        os.environ.setdefault(name, value)


def client(uri: str) -> MlflowClient:
    """Import MLflow (about 3 s) and return a client of a store whose schema is there.

    Raises:
        StudyError: the store was written by another version of MLflow, or can't be created.
    """
    settle_environment()
    from mlflow.tracking import MlflowClient

    prepare(uri)
    return MlflowClient(tracking_uri=uri)


def prepare(uri: str) -> None:
    """Create a local store's schema if it has none yet.

    MLflow migrates an empty database table by table; two processes at it, or one that is killed, leave a file that
    no MLflow opens again. So one process at a time builds the database in a temporary file, which is then renamed.

    Raises:
        StudyError: the file is incomplete, of another MLflow version, or its folder can't be written.
    """
    if uri.startswith(("file:", "./", "/")):
        raise StudyError(
            f"MLFLOW_TRACKING_URI must name a database or a server, but got '{uri}': MLflow 3 no longer writes plain "
            f"folders. Take for example sqlite:///{uri.removeprefix('file:').rstrip('/') or ''}/mlflow.db."
        )
    path = sqlite_path(uri)
    if path is None:
        return
    try:
        private_folder(path.parent)
        with waiting(path.with_name(path.name + ".lock"), f"prepares the store {path}"):
            if not path.exists() or path.stat().st_size == 0:
                _build(path)
            _check(path)
    except OSError as error:
        raise StudyError(f"{path.parent} must be writable for MLflow's store, but: {error.strerror}.") from error


def _build(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = path.with_name(f".{path.name}.new")
    for stale in path.parent.glob(f"{new.name}*"):
        stale.unlink()
    with _hushed():
        SqlAlchemyStore(f"sqlite:///{new}", (path.parent / "artifacts").as_uri()).engine.dispose()
    os.replace(new, path)


def _check(path: Path) -> None:
    import mlflow
    import mlflow.store
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.store.__path__[0]) / "db_migrations"))
    revision = _revision(path)
    if revision in scripts.get_heads():
        return
    if revision is None:
        raise StudyError(
            f"{path} holds no complete MLflow store (its creation was cut short, or it is another database). "
            f"Move it away; the runs of every study are rebuilt by 'lungtune ui --sync STUDY'."
        )
    if revision in {script.revision for script in scripts.walk_revisions()}:
        raise StudyError(
            f"{path} was written by an older MLflow than {mlflow.__version__}. Copy the file, then bring it up to "
            f"date with 'mlflow db upgrade sqlite:///{path}'."
        )
    raise StudyError(
        f"{path} was written by a newer MLflow than {mlflow.__version__}. Update mlflow, or move the file away and "
        f"rebuild the runs with 'lungtune ui --sync STUDY'."
    )


def _revision(path: Path) -> str | None:
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as database:
            row = database.execute("select version_num from alembic_version").fetchone()
    except sqlite3.DatabaseError:
        return None
    return row[0] if row else None


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
