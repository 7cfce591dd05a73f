"""MLflow's web interface on the local store, bound to this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from importlib import metadata

from lungtune.errors import StudyError
from lungtune.tracking import location, mlflow_views, server_app, store

HOST = "127.0.0.1"
PORT = 5000
PATIENCE = 20.0
"""Seconds between two notes that the server has not answered yet; its start imports MLflow twice."""


def free_port(wanted: int | None) -> int:
    """Return ``wanted`` if it is free; for None the first free port from 5000 on.

    Raises:
        StudyError: the wanted port is taken, or none of twenty is free.
    """
    for port in [wanted] if wanted is not None else range(PORT, PORT + 20):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return port
    if wanted is None:
        raise StudyError(f"no port from {PORT} to {PORT + 19} is free; name one with --port.")
    raise StudyError(f"port {wanted} can't be used on {HOST}: it is taken or not allowed. Choose another with --port.")


def command(uri: str, port: int) -> list[str]:
    """Return the server's command line: one worker, local only, files next to the database."""
    files = location.artifact_location(uri) or ""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", uri, "--default-artifact-root", files, "--artifacts-destination", files),
        *("--uvicorn-opts", "--log-level warning"),
        *(("--app-name", server_app.NAME) if _is_installed() else ()),
    ]


def _is_installed() -> bool:
    """True if MLflow finds our application's entry point; a lungtune on PYTHONPATH alone has none."""
    return any(point.name == server_app.NAME for point in metadata.entry_points(group="mlflow.app"))


def serve(uri: str, port: int | None, say: Callable[[str], None]) -> int:
    """Run the server until Ctrl-C.

    MLflow's own default is 4 workers and a job runner: 15 processes, 2.7 GB. One worker and no jobs need 2 and 0.5.

    Args:
        uri: a database URI.
        port: the port; None for the first free one from 5000 on.
        say: called with a line at the start, one when the server answers, and one every 20 s until then.

    Returns:
        the exit code: 0 after Ctrl-C, the server's own if it ended by itself.

    Raises:
        StudyError: the port is taken, or the store is of another MLflow version.
    """
    port = free_port(port)
    url, log = f"http://{HOST}:{port}", location.log_file(uri)
    say(f"starting MLflow at {url} ...")
    store.settle_environment()
    store.prepare(uri)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", server_app.STORE: uri}
    with open(log, "ab") as output:
        server = subprocess.Popen(
            command(uri, port), env=environment, stdout=output, stderr=output, start_new_session=True
        )
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if _answers(server, url, lambda seconds: say(f"MLflow has not answered for {seconds:.0f} s; its log: {log}")):
            say(f"MLflow is open at {url} (Ctrl-C ends it)")
            for line in pages(uri, url):
                say(line)
        code = server.wait()
        say(f"MLflow's server ended by itself (exit code {code}); its last output is in {log}")
        return code or 1
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)
        signal.signal(signal.SIGTERM, previous)


def pages(uri: str, url: str) -> list[str]:
    """Return one line per study in the store: its name, with its id where several have it, and its view's address."""
    studies = server_app.studies(store.client(uri))
    return [f"  {study.title}: {mlflow_views.address(url, study.experiment, study.view)}" for study in studies]


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _answers(server: subprocess.Popen[bytes], url: str, still: Callable[[float], None]) -> bool:
    """Return True once the server answers, False if it ends; ``still`` gets the seconds waited every ``PATIENCE``."""
    began = reported = time.monotonic()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None:
        try:
            with opener.open(f"{url}/health", timeout=2):
                return True
        except OSError:
            time.sleep(0.2)
        if time.monotonic() - reported > PATIENCE:
            reported = time.monotonic()
            still(reported - began)
    return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its worker: by SIGTERM, after five seconds by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
