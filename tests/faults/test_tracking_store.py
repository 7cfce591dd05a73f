"""Stores of MLflow that refuse, hang, are full, locked or killed; and what a search says of them at its start."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from lungtune.tracking import Tracker, location, problem, server, sync
from tests.faults.checker import check
from tests.integration import tracking_study

TRIALS = 4


def events(name="s"):
    return list(tracking_study.script(TRIALS, name=name, study_id=name.encode().hex().ljust(32, "0")[:32]))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home/studies/s"


@contextlib.contextmanager
def answering(status: int, kind: str = "application/json"):
    """A server that answers every request the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


REFUSALS = {401: "refuses this user", 403: "refuses this user", 404: "must be an MLflow server"}
REFUSALS |= {500: "answers with an error"}


@pytest.mark.parametrize(("status", "words"), REFUSALS.items())
def test_server_that_refuses_is_named_at_once_and_later(status, words, study, fault, furnish, tmp_path):
    with fault(f"MLflow's server answers {status}", "said at the start; delivered when it is mended"):
        with answering(status) as uri:
            assert words in problem(uri)
            tracking_study.write(study, events())
            delivery = Tracker(study, uri).start().stop(3)
        assert delivery.undelivered == len(events())
        assert "nothing is lost" in delivery.sentence
        check(study, uri=furnish(tmp_path / "mlflow.db"), finished=False)


WRONG = {
    "postgresql://me:secret@db.invalid/x": r"needs the library 'psycopg2?', which is not installed: pip install",
    "mysql+pymysql://me@db.invalid/x": r"needs the library 'pymysql'",
    "htp://there:5000": r"must be .*, but got 'htp://there:5000'. Did you mean 'http'",
    "localhost:5000": r"Did you mean 'http://localhost:5000'",
    "./mlruns": r"must name a database or a server",
    "file:///tmp/mlruns": r"must name a database or a server",
    "sqlite://mlflow.db": r"must be sqlite:////PATH",
    "http://": r"must be http://HOST:PORT",
    "http://127.0.0.1:9": r"can't be reached: Connection refused",
}


@pytest.mark.parametrize("uri", WRONG)
def test_wrong_address_is_one_sentence(uri, fault):
    import re

    with fault(f"MLFLOW_TRACKING_URI is {location.without_password(uri)}", "one sentence before anything slow"):
        found = problem(uri)
        assert re.search(WRONG[uri], found), found
        assert "secret" not in found
        assert "\n" not in found


def test_right_addresses_have_no_problem(tmp_path, furnish, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "new"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert problem() == ""
    assert problem(furnish(tmp_path / "mlflow.db")) == ""
    with answering(200) as uri:
        assert problem(uri) == ""
    assert problem("databricks") == ""


def test_hung_server_is_named_after_seconds(monkeypatch, fault):
    with (
        fault("MLflow's server accepts and never answers", "said after 3 s"),
        socket.create_server(("127.0.0.1", 0)) as s,
    ):
        began = time.monotonic()
        assert "does not answer within 3 s" in problem(f"http://127.0.0.1:{s.getsockname()[1]}")
        assert time.monotonic() - began < 6


def test_file_in_place_of_the_folder_is_named(study, tmp_path, fault):
    with fault("the store's folder can't be written", "said at the start and at the end"):
        (tmp_path / "taken").write_text("a file")
        uri = f"sqlite:///{tmp_path}/taken/mlflow.db"
        assert "must be writable" in problem(uri)
        tracking_study.write(study, events())
        assert "must be writable" in Tracker(study, uri).start().stop(20).sentence


def test_store_of_a_newer_mlflow_is_named_at_once(study, tmp_path, furnish, fault):
    with fault("the store was written by a newer MLflow", "said at the start; delivered once it is mended"):
        uri = furnish(tmp_path / "mlflow.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
            (right,) = database.execute("select version_num from alembic_version").fetchone()
            database.execute("update alembic_version set version_num = 'ffffffffffff'")
        assert "newer MLflow" in problem(uri)
        tracking_study.write(study, events())
        tracker = Tracker(study, uri).start()
        wait(lambda: "newer MLflow" in tracker.state().problem)
        with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
            database.execute("update alembic_version set version_num = ?", (right,))
        wait(lambda: not tracker.state().undelivered)
        assert tracker.stop(60)
        check(study, uri=uri, finished=False)


def test_locked_database_delays_and_loses_nothing(study, tmp_path, furnish, fault):
    with fault("another process locks the database for long", "said; delivered when it lets go"):
        uri = furnish(tmp_path / "mlflow.db")
        code = "import sqlite3, sys, time; d = sqlite3.connect(sys.argv[1]); d.execute('begin exclusive')"
        words = f"{code}; print(1, flush=True); time.sleep(100)"
        command = [sys.executable, "-c", words, str(tmp_path / "mlflow.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            holder.stdout.readline()
            assert "locked" in problem(uri)
            tracking_study.write(study, events())
            tracker = Tracker(study, uri).start()
            time.sleep(2)
            assert tracker.state().undelivered == len(events())
            holder.kill()
        assert tracker.stop(90)
        check(study, uri=uri, finished=False)


def test_store_is_read_after_a_kill_in_a_transaction(study, tmp_path, furnish, fault):
    with fault("a process is killed in a transaction of the store", "undone; everything is delivered"):
        uri = furnish(tmp_path / "mlflow.db")
        code = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")  # pages go to the file before the commit
database.execute("begin")
database.execute("create table t (x)")
database.executemany("insert into t values (?)", [("x" * 4000,)] * 200)
database.execute("delete from alembic_version")
os.kill(os.getpid(), signal.SIGKILL)
"""
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "mlflow.db")], check=False)
        assert (tmp_path / "mlflow.db-journal").exists()
        tracking_study.write(study, events())
        assert Tracker(study, uri).start().stop(60)
        check(study, uri=uri, finished=False)


def mounted(folder: Path, *words: str) -> None:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path):
    """A disk of 6 MB."""
    mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=6m", "tmpfs")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_full_disk_of_the_store_loses_nothing(study, small, furnish, fault):
    with fault("the store's disk is full", "one sentence; delivered when there is room"):
        uri = furnish(small / "mlflow.db")
        filler = small / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)
        tracking_study.write(study, events())
        delivery = Tracker(study, uri).start().stop(5)
        assert not delivery
        assert "full" in delivery.sentence or "No space" in delivery.sentence, delivery.sentence
        filler.unlink()
        check(study, uri=uri, finished=False)


def test_store_is_not_begun_on_a_full_disk(study, tmp_path, fault):
    with fault("the store is to be made on a full disk", "one sentence, no half-made store"):
        mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "tmpfs")
        try:
            tracking_study.write(study, events())
            delivery = Tracker(study, f"sqlite:///{tmp_path}/disk/mlflow.db").start().stop(25)
            assert "full" in delivery.sentence, delivery.sentence
            assert not list((tmp_path / "disk").glob("*.db"))
        finally:
            subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def test_read_only_store_is_named(study, tmp_path, furnish, fault):
    with fault("the store's disk is read-only", "said at the start and at the end; delivered elsewhere"):
        furnish(tmp_path / "disk/mlflow.db")
        mounted(tmp_path / "disk", "--bind", str(tmp_path / "disk"))
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "disk")], check=True)
            uri = f"sqlite:///{tmp_path}/disk/mlflow.db"
            assert "writable" in problem(uri)
            tracking_study.write(study, events())
            assert "writable" in Tracker(study, uri).start().stop(20).sentence
        finally:
            subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)
        check(study, uri=uri, finished=False)


def wait(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def serve(uri: str, port: int) -> subprocess.Popen[bytes]:
    """Start a real server and wait for its answer."""
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "LUNGTUNE_UI_STORE": uri}
    process = subprocess.Popen(server.command(uri, port), env=environment, start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
        return False

    wait(answers, 120)
    return process


@pytest.mark.slow
def test_server_killed_in_the_middle_of_a_delivery(study, tmp_path, furnish, fault):
    with fault("MLflow's server is killed -9 in the middle of a delivery", "delivered when it is there again"):
        uri = furnish(tmp_path / "mlflow.db")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = serve(uri, port)
        try:
            address = f"http://127.0.0.1:{port}"
            assert problem(address) == ""
            tracker = Tracker(study, address).start()
            tracking_study.write(study, events()[:12])
            wait(lambda: 0 < tracker.state().undelivered < 12 or tracker.state())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            tracking_study.write(study, events()[12:])
            wait(lambda: "can't be reached" in tracker.state().problem)
            process = serve(uri, port)
            assert tracker.stop(120)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        check(study, uri=uri, finished=False)
        assert sync(study, uri)
