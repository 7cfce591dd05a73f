"""Tracking servers that are down, hung, slow or drop answers: the search is unaffected, no event is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from lungtune.core.paths import ROOT
from lungtune.errors import StudyError
from lungtune.tracking import Tracker, server, sync
from tests.integration import tracking_study

TRIALS = 5
EVENTS = len(list(tracking_study.script(TRIALS)))


class Proxy:
    """Proxy between client and server: ``mode`` is pass, refuse, slow, or lose (the answer)."""

    def __init__(self, port: int) -> None:
        self.mode, self.target = "pass", port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as upstream:
            if self.mode == "refuse":
                return
            threading.Thread(target=self._pump, args=(client, upstream, True), daemon=True).start()
            self._pump(upstream, client, False)

    def _pump(self, source: socket.socket, sink: socket.socket, forward: bool) -> None:
        try:
            while data := source.recv(65536):
                if self.mode == "refuse" or (self.mode == "lose" and not forward):
                    break
                if self.mode == "slow" and forward:
                    time.sleep(0.1)
                sink.sendall(data)
        except OSError:
            pass  # the other side has gone: so will this one
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


DOOR = """
import runpy, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
class Told(subprocess.Popen):
    def __init__(self, *words, **more):
        super().__init__(*words, **more)
        if more.get("start_new_session"):
            print(self.pid, flush=True)
subprocess.Popen = Told
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Running(NamedTuple):
    """The server that ``lungtune ui`` started, and the output of its start."""

    pid: int
    port: int
    said: list[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory, furnish):
    """A real server: scripts/ui.py opens it in a home of its own, where a study is; Ctrl-C ends it."""
    home, port = tmp_path_factory.mktemp("server"), free()
    environment = {**os.environ, "LUNGTUNE_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    tracking_study.write(home / "studies/clip_lora-1", tracking_study.script(3))
    assert sync(home / "studies/clip_lora-1", furnish(home / "mlflow/state/mlflow.db"))
    command = [sys.executable, "-c", DOOR, str(ROOT / "scripts/ui.py"), "--port", str(port)]
    opened = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=home)
    first = opened.stdout.readline()  # before the server's process is made
    pid = int(opened.stdout.readline())
    lines = (line for line in opened.stdout if "has not answered" not in line)  # a busy machine
    yield Running(pid, port, [first, next(lines), next(lines)])
    opened.send_signal(signal.SIGINT)
    assert opened.wait(15) == 0
    opened.stdout.close()
    assert server.free_port(port) == port
    assert not list(home.glob("**/mlruns"))


@pytest.fixture
def proxy(running):
    proxy = Proxy(running.port)
    yield proxy
    proxy.listener.close()


@pytest.fixture
def patience(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def study_of(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, list[tracking_study.Event]]:
    name = request.node.name[5:40]
    return tmp_path / name, list(
        tracking_study.script(TRIALS, name=name, study_id=name.encode().hex()[:32].ljust(32, "0"))
    )


def check_whole(uri: str, study: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    logged = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], f"tags.study = '{study.name}'", max_results=1000
    )
    keys = Counter(run.data.tags.get("lungtune.trial", "study") for run in logged)
    assert keys == {"study": 1, **{str(n): 1 for n in range(TRIALS)}}
    reports = Counter(str(f["trial"]) for kind, f in tracking_study.script(TRIALS) if kind == "report")
    for run in logged:
        key = run.data.tags.get("lungtune.trial")
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "macro_f1")] if key else []
        assert len(set(steps)) == len(steps) == reports[key]


def test_server_listens_on_this_machine_only(running):
    server_process = psutil.Process(running.pid)
    sockets = [c for p in (server_process, *server_process.children(recursive=True)) for c in p.net_connections("inet")]
    assert {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_first_page_leads_to_the_newest_study(running):
    """The first test of the file: later ones add studies."""
    url = f"http://127.0.0.1:{running.port}"
    with urllib.request.urlopen(url) as answer:
        page, length = answer.read().decode(), int(answer.headers["content-length"])
    view = running.said[2].split(url)[1].strip()
    assert f'location.replace("{view}")' in page
    assert page.index("location.replace") < page.index("<script defer")
    assert len(page.encode()) == length
    with urllib.request.urlopen(f"{url}/version") as answer:
        assert "location" not in answer.read().decode(), "all else is MLflow's"


def test_server_down_then_up_gets_every_event(running, proxy, tmp_path, request):
    study, events = study_of(tmp_path, request)
    proxy.mode = "refuse"
    tracker = Tracker(study, proxy.uri).start()
    tracking_study.write(study, events)
    began = time.monotonic()
    delivery = tracker.stop(timeout=1.0)
    assert time.monotonic() - began < 1.5
    assert delivery.undelivered == EVENTS
    assert "can't be reached" in delivery.sentence
    proxy.mode = "pass"
    assert sync(study, proxy.uri, timeout=60), "delivered when the server is back"
    check_whole(proxy.uri, study)


def test_server_that_returns_during_the_search_catches_up(running, proxy, tmp_path, request):
    study, events = study_of(tmp_path, request)
    tracker = Tracker(study, proxy.uri).start()
    tracking_study.write(study, events[:20])
    proxy.mode = "refuse"
    tracking_study.write(study, events[20:30], pause=0.05)
    proxy.mode = "pass"
    tracking_study.write(study, events[30:])
    assert tracker.stop(60)
    check_whole(proxy.uri, study)


def test_lost_answers_create_no_second_run(running, proxy, patience, tmp_path, request):
    study, events = study_of(tmp_path, request)
    tracker = Tracker(study, proxy.uri).start()
    for count in range(0, len(events), 6):
        proxy.mode = "lose" if count % 4 else "pass"
        tracking_study.write(study, events[count : count + 6], pause=0.06)
    proxy.mode = "pass"
    assert tracker.stop(60)
    check_whole(proxy.uri, study)


def test_slow_server_delays_no_search(running, proxy, tmp_path, request):
    study, events = study_of(tmp_path, request)
    proxy.mode = "slow"
    tracker = Tracker(study, proxy.uri).start()
    tracking_study.write(study, events)
    began = time.monotonic()
    delivery = tracker.stop(timeout=1.0)
    assert time.monotonic() - began < 1.5
    assert 0 < delivery.undelivered <= EVENTS
    proxy.mode = "pass"
    assert Tracker(study, proxy.uri).start().stop(60)
    check_whole(proxy.uri, study)


def test_hung_server_delays_no_search(running, patience, tmp_path, request):
    study, events = study_of(tmp_path, request)
    uri = f"http://127.0.0.1:{running.port}"
    tracker = Tracker(study, uri).start()
    tracking_study.write(study, events[:15])
    while tracker.state().undelivered:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGSTOP)
    try:
        slowest = tracking_study.write(study, events[15:], pause=0.02)
        began = time.monotonic()
        delivery = tracker.stop(timeout=2.0)
        took = time.monotonic() - began
    finally:
        os.killpg(running.pid, signal.SIGCONT)
    assert took < 2.5
    assert delivery.undelivered > 0
    assert slowest < 1.0  # an fsync on a busy machine, not a request
    time.sleep(0.5)
    assert Tracker(study, uri).start().stop(60)
    check_whole(uri, study)


def test_ui_prints_its_address_and_uses_the_port(running):
    """Shutdown by Ctrl-C without leftovers is checked at the end of the fixture."""
    url = f"http://127.0.0.1:{running.port}"
    assert running.said[0] == f"starting MLflow at {url} ...\n"
    assert f"{url} " in running.said[1]
    assert f"clip_lora-1: {url}/#/experiments/" in running.said[2]
    with pytest.raises(StudyError, match=f"port {running.port} can't be used"):
        server.free_port(running.port)


def test_unanswered_start_is_reported_until_answered(monkeypatch):
    answers = iter([OSError(), OSError(), OSError(), contextlib.nullcontext()])

    def opened(self, url, timeout):
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", opened)
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    notes = []
    assert server._answers(SimpleNamespace(poll=lambda: None), "http://x", notes.append)
    assert len(notes) == 1
    assert not server._answers(SimpleNamespace(poll=lambda: 1), "http://x", notes.append), "it has ended"


def test_ui_sync_delivers_a_study(tmp_path, monkeypatch, furnish, door):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    furnish(tmp_path / "mlflow/state/mlflow.db")
    tracking_study.write(tmp_path / "studies/clip_lora-1", tracking_study.script(3))
    done = door("ui", "--sync", "clip_lora-1")
    assert (done.code, done.err) == (0, "")
    assert "MLflow holds all of 'clip_lora-1'" in done.out


def test_users_own_server_is_named_without_password(monkeypatch, door):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@mlflow.example:8443")
    done = door("ui")
    assert done.code == 0
    assert "mlflow.example" in done.out
    assert "secret" not in done.out
