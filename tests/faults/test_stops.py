"""Stops of a search by signals, its time budget and closed pipes: nothing is lost, and nothing ends for good."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lungtune.core.trial import State
from tests.faults.checker import check, check_decisions
from tests.faults.drive import below, gone

pytestmark = pytest.mark.timeout(400)


@pytest.mark.slow
def test_closed_terminal_stops_cleanly_and_resume_goes_on(search, fault, tmp_path):
    with fault("the terminal is closed (SIGHUP, EIO)", "exit code 3; resume goes on, decisions as if undisturbed"):
        master, terminal = os.openpty()
        drive = search(TRIALS=6, SECONDS=0.1).start(stdin=terminal, stdout=terminal, stderr=terminal)
        os.close(terminal)
        reader = threading.Thread(target=_read, args=(master, closing := threading.Event()))
        reader.start()
        drive.wait_for("report", 3)
        children = drive.children()
        closing.set()
        reader.join()
        os.close(master)
        drive.signal(signal.SIGHUP)
        assert drive.end().code == 3
        assert not check(drive.folder, finished=False).of(State.FAIL)
        assert drive.events("stop")[-1]["why"] == "SIGHUP"
        assert gone(children), "processes of the stopped search are left"
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        check_decisions(drive.folder, tmp_path / "again")


def _read(master: int, closing: threading.Event) -> None:
    """Read what a terminal shows until ``closing`` is set."""
    while not closing.is_set():
        if select.select([master], [], [], 0.1)[0]:
            os.read(master, 65536)


def test_search_without_terminal_and_readers_goes_on(search, fault):
    with fault("nohup, SIGHUP, readers of stdout and stderr gone", "shown nowhere; goes on to its end, exit code 0"):
        reading, writing = os.pipe()
        drive = search(TRIALS=4, SECONDS=0.1).start(wrap=("nohup",), stdout=writing, stderr=writing)
        os.close(writing)
        drive.wait_for("report", 1)
        os.close(reading)
        drive.signal(signal.SIGHUP)
        assert drive.end().code == 0
        check(drive.folder, uri=drive.uri)


@pytest.mark.slow
def test_spent_budget_leaves_everything_resumable(search, fault, tmp_path):
    with fault("--budget spent", "exit code 3, within seconds; no trial is ended; resume goes on"):
        drive = search(TRIALS=8, SECONDS=1.5).start("--budget", "12s")
        began = time.monotonic()
        left = drive.end()
        assert time.monotonic() - began < 60
        history = check(drive.folder, left=left, code=3, says="the time budget is spent", finished=False)
        ended = [trial for trial in history.trials.values() if trial.state in (State.PRUNED, State.FAIL)]
        assert not [trial for trial in ended if trial.reason != "asha"]
        reported = bool(history.order)
        assert ("no trial reached a report in this run" in left.out) != reported
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        check_decisions(drive.folder, tmp_path / "again")


def test_signal_while_ray_starts(search, fault):
    with fault("SIGTERM while Ray starts", "exit code 3 at once; no process is left"):
        drive = search(TRIALS=4).start()
        drive.wait_for("open")
        deadline = time.monotonic() + 60
        while not drive.children("gcs") and time.monotonic() < deadline:
            time.sleep(0.02)
        children = drive.children()
        drive.signal(signal.SIGTERM)
        left = drive.end(60)
        check(drive.folder, left=left, code=3, says=r"stopped \(SIGTERM\)", finished=False)
        assert gone(children, 60), "processes of Ray are left"


def command(home: Path, *words: str, cache: Path | None = None, **options: object) -> subprocess.Popen[str]:
    """Begin the real command."""
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(cache or home / "cache"), "COLUMNS": "200"}
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    return subprocess.Popen([sys.executable, "-m", "lungtune", *words], env=env, text=True, **files)  # type: ignore[call-overload,no-any-return]


def until(process: subprocess.Popen[str], word: str) -> None:
    """Read the output up to a line that holds ``word``."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return
    raise AssertionError("".join(lines))


SEARCH = ("search", "--space", "clip_head", "--profile", "demo", "--trials", "2", "--study", "s")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL", "budget"])
def test_stop_while_a_bank_is_drawn(tmp_path, fault, how):
    result = "the generator ends as well" if how == "SIGKILL" else "exit code 3, no process and no study is left"
    with fault(f"{how} while a bank is made", result):
        words = [*SEARCH, "--data", "phantom,n=240,test=60", "--set", "synthetic_ratio=[0.5, 5]"]
        words += ["--budget", "45s"] if how == "budget" else []
        process = command(tmp_path, *words)
        until(process, "are drawn first")
        deadline = time.monotonic() + 60
        generator = lambda words: "synthesize" in words  # noqa: E731
        while not (made := below(process.pid, generator)) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(3.0)  # it reads the data
        children = below(process.pid, lambda words: True)
        assert made, "no generator was started"
        if how != "budget":
            process.send_signal(getattr(signal, how))
        out, _ = process.communicate(timeout=120)
        assert gone(made, 60), "the generator is left"
        if how == "SIGKILL":
            return
        assert gone(children, 90)
        assert process.returncode == 3, out
        assert "before the study began; nothing of it was kept" in out
        assert out.count("stopped (") == 1
        assert ("with a longer --budget" in out) == (how == "budget")
        assert not list((tmp_path / "studies").glob("*"))
        assert "Traceback" not in out


def test_stop_while_images_are_rendered(tmp_path, fault):
    with fault("SIGTERM while the data are prepared", "exit code 3; no process, no half-written folder is left"):
        process = command(tmp_path, *SEARCH, "--data", "phantom,n=1500")
        until(process, "Rendering 2000 phantoms")
        time.sleep(2.0)
        children = below(process.pid, lambda words: True)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 3, out
        assert "nothing of it was kept. Begin again:\n  lungtune search --space clip_head" in out
        assert "Traceback" not in out
        assert gone(children, 90), "processes of the stopped command are left"
        assert not list((tmp_path / "studies").glob("*"))


def test_synthesize_stops_by_signal(tmp_path, fault):
    with fault("SIGINT to `lungtune synthesize`", "exit code 3; no process is left; the same command goes on"):
        process = command(
            tmp_path, "synthesize", "--data", "phantom,n=900", "--per-class", "2", stderr=subprocess.STDOUT
        )
        until(process, "Rendering")
        children = below(process.pid, lambda words: True)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 3, out
        assert "stopped (SIGINT). Give the same command again to go on." in out
        assert gone(children), "processes of the stopped command are left"


def test_closed_pipe_of_a_short_command(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    process = command(tmp_path, "list", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
