"""Addresses of MLflow stores: tracking URIs, SQLite files, folders of artifacts."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from lungtune.core import paths
from lungtune.core.io import private_folder


def state_folder() -> Path:
    """Return the folder of the local store: ``<home>/mlflow/state``."""
    return paths.home() / "mlflow" / "state"


def tracking_uri() -> str:
    """Return ``MLFLOW_TRACKING_URI``, or the local store's SQLite file.

    A relative SQLite path, or one that begins with ``~``, is made absolute: MLflow's server has another working folder.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return sqlite_uri(state_folder() / "mlflow.db")
    relative = uri.startswith("sqlite:///") and not uri.startswith("sqlite:////") and "?" not in uri
    path = sqlite_path(uri) if relative else None
    return uri if path is None else sqlite_uri(path)


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file.

    SQLAlchemy decodes ``%``, and ``?`` ends its path, so both are encoded; ``sqlite+pysqlite`` because MLflow creates
    the folder of an undecoded path after ``sqlite:///``.
    """
    if not {"%", "?"} & set(str(path)):
        return f"sqlite:///{path}"
    import sqlalchemy

    return sqlalchemy.URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite URI, ``None`` for anything else."""
    if dialect(uri) != "sqlite":
        return None
    if uri.startswith("sqlite:///") and not {"%", "?"} & set(uri):
        name: str | None = uri.removeprefix("sqlite:///")
    else:
        import sqlalchemy

        try:
            name = sqlalchemy.make_url(uri).database
        except sqlalchemy.exc.ArgumentError:
            return None
    return paths.expanded(name).absolute() if name and name != ":memory:" else None


def dialect(uri: str) -> str:
    """Return the scheme of a URI without its driver: ``postgresql`` for ``postgresql+psycopg2://...``; may be empty."""
    return uri.partition(":")[0].partition("+")[0] if ":" in uri else ""


def is_remote(uri: str) -> bool:
    """True if ``uri`` names a server rather than a file or a database."""
    return uri in ("databricks", "databricks-uc") or dialect(uri) in ("http", "https", "databricks", "databricks-uc")


def without_password(uri: str) -> str:
    """Return ``uri`` as it may be printed."""
    if dialect(uri) in ("sqlite", "file", ""):
        return uri
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


def log_file(uri: str) -> Path:
    """Return the log file of the store's server."""
    database = sqlite_path(uri)
    folder = database.parent if database else state_folder()
    private_folder(folder)
    return folder / "server.log"


def host(uri: str) -> tuple[str, int | None]:
    """Return the host and port of a URI; empty and None where it names none."""
    try:
        parts = urlsplit(uri)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None
