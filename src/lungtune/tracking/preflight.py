"""Mistakes in the address of MLflow's store, found before a search begins and before MLflow is imported."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
from importlib import metadata
from pathlib import Path

from lungtune.errors import LungtuneError, StudyError, did_you_mean
from lungtune.tracking import location, store

TIMEOUT = 3.0
"""Seconds to wait for a server."""

DATABASES = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Databases besides SQLite that MLflow takes, with their ports."""

_SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")


def problem(uri: str | None = None) -> str:
    """Return one sentence on why MLflow would not take a study now; empty where nothing was found.

    Args:
        uri: of the store; by default that of the searches (``location.tracking_uri``).
    """
    uri = uri or location.tracking_uri()
    scheme = location.dialect(uri)
    try:
        store.check_folder(uri)
        if scheme == "sqlite":
            return _of_file(uri)
        if scheme in ("http", "https"):
            return _of_server(uri)
        if scheme in DATABASES:
            return _of_database(uri)
    except (LungtuneError, OSError) as error:
        return str(error)
    plugins = {point.name for point in metadata.entry_points(group="mlflow.tracking_store")}
    return "" if location.is_remote(uri) or scheme in (*_SERVERS, *plugins) else _unknown(uri, scheme)


def _unknown(uri: str, scheme: str) -> str:
    known = ("sqlite", *DATABASES, *_SERVERS)
    bare = re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri)
    hint = f" Did you mean 'http://{uri}'?" if bare else did_you_mean(scheme, known)
    shown = location.without_password(uri)
    return f"MLFLOW_TRACKING_URI must be sqlite:////PATH, http://HOST:PORT or a database, but got '{shown}'.{hint}"


def _of_file(uri: str) -> str:
    path = location.sqlite_path(uri)
    if path is None:
        return "" if uri.endswith(":memory:") else f"MLFLOW_TRACKING_URI must be sqlite:////PATH, but got '{uri}'."
    raw = Path(uri.partition("://")[2][1:])
    if "%" in uri and not path.parent.is_dir() and raw.parent.is_dir():
        return f"MLFLOW_TRACKING_URI must write '%' as '%25', but got '{uri}': did you mean {location.sqlite_uri(raw)}?"
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return f"{path.parent} must be writable for MLflow's store, but is not."
    if not path.exists() or path.stat().st_size == 0:
        return ""
    store.check_version(path, TIMEOUT)
    if not os.access(path, os.W_OK):
        return f"MLflow's store {path} must be writable, but is read-only."
    try:
        with contextlib.closing(store.connect(path, write=True, timeout=TIMEOUT)) as database:
            database.execute("begin immediate")
            database.rollback()
    except sqlite3.DatabaseError as error:
        return f"MLflow's store {path} takes nothing now: {error}."
    return ""


def _of_database(uri: str) -> str:
    import sqlalchemy

    shown = location.without_password(uri)
    try:
        url = sqlalchemy.make_url(uri)
        url.get_dialect().import_dbapi()
    except ImportError as error:
        return f"{shown} needs the library '{error.name}', which is not installed: pip install {_package(error.name)}."
    except sqlalchemy.exc.SQLAlchemyError as error:
        return f"MLFLOW_TRACKING_URI must name a database, but got '{shown}': {error}."
    if not url.host:
        return ""
    try:
        socket.create_connection((url.host, url.port or DATABASES[location.dialect(uri)]), TIMEOUT).close()
    except OSError as error:
        return f"{shown} can't be reached: {error.strerror or error}."
    return ""


def _package(module: str | None) -> str:
    return {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}.get(
        str(module), str(module)
    )


def _of_server(uri: str) -> str:
    import requests

    shown = location.without_password(uri)
    if not location.host(uri)[0]:
        raise StudyError(f"MLFLOW_TRACKING_URI must be http://HOST:PORT, but got '{shown}'.")
    headers, user = {}, os.environ.get("MLFLOW_TRACKING_USERNAME")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token and not user:
        headers["Authorization"] = f"Bearer {token}"
    verify: bool | str = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or (
        os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() not in ("1", "true")
    )
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/search",
            params={"max_results": 1},
            auth=(user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None,
            headers=headers,
            verify=verify,
            timeout=TIMEOUT,
        )
    except requests.Timeout:
        return f"{shown} does not answer within {TIMEOUT:g} s."
    except requests.ConnectionError as error:
        return f"{shown} can't be reached: {_reason(error)}."
    except (requests.RequestException, ValueError) as error:
        return f"MLFLOW_TRACKING_URI must be http://HOST:PORT, but got '{shown}': {error}."
    if answer.status_code in (401, 403):
        return (
            f"{shown} refuses this user ({answer.status_code} {answer.reason}); set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    if answer.status_code >= 500:
        return f"{shown} answers with an error ({answer.status_code} {answer.reason})."
    if answer.status_code != 200 or "application/json" not in answer.headers.get("content-type", ""):
        return (
            f"{shown} must be an MLflow server, but answers {answer.status_code} {answer.reason} with "
            f"'{answer.headers.get('content-type', 'nothing')}'."
        )
    return ""


def _reason(error: Exception) -> str:
    """Return the innermost cause of a failed connection: ``Connection refused``."""
    found = re.findall(r"\[Errno -?\d+\] ([^')]+)", str(error))
    return found[-1] if found else "the connection failed" if len(str(error)) > 120 else str(error)
