"""Atomic writes, locks that name their holder, progress on a terminal and in a pipe."""

import io as streams
import os
import subprocess
import sys
import threading
import time

import pytest

from lungtune.core import io

HOLD = """
import sys, time
from pathlib import Path
from lungtune.core.io import Lock
lock = Lock(Path(sys.argv[1]))
assert lock.try_acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A lock held by another process, until a line is written to it."""
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "l.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout.readline() == "held\n"
    yield held
    held.communicate("\n")


def test_atomic_write_leaves_no_half_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "f.json"
    io.write_atomic(path, b"old")

    def fail(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        io.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("sync", "flushed"), [(True, 2), (False, 1)])
def test_atomic_write_flushes_file_and_folder(tmp_path, monkeypatch, sync, flushed):
    calls = []
    monkeypatch.setattr(os, "fsync", calls.append)
    io.write_atomic(tmp_path / "f", b"x", sync_folder=sync)
    assert len(calls) == flushed


def test_atomic_writes_from_threads_do_not_mix(tmp_path):
    threads = [threading.Thread(target=io.write_atomic, args=(tmp_path / "f", bytes([n]) * 999)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(set((tmp_path / "f").read_bytes())) == 1
    assert os.listdir(tmp_path) == ["f"]


def test_held_lock_is_refused_and_names_its_holder(tmp_path, elsewhere):
    with (
        pytest.raises(ValueError, match=rf"^held by process {elsewhere.pid} on .+ since \d{{4}}-\d\d-\d\d"),
        io.exclusive(tmp_path / "l.lock", lambda holder: ValueError(f"held by {holder}")),
    ):
        pass


def test_waiting_names_the_holder_then_acquires(tmp_path, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(io, "_PATIENCE", 0.05)
    threading.Timer(0.3, elsewhere.stdin.write, "\n").start()
    threading.Timer(0.4, elsewhere.stdin.flush).start()
    with io.waiting(tmp_path / "l.lock", "makes tea"):
        assert f"process {os.getpid()} " in io.Lock(tmp_path / "l.lock").holder()
    assert capsys.readouterr().err.startswith(f"Waiting for process {elsewhere.pid} on ")
    assert io.Lock(tmp_path / "l.lock").holder() == "another process"


def test_listener_is_informed_of_waiting(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(io, "_PATIENCE", 0.05)
    monkeypatch.setattr(io._local, "stages", io._Stages())
    told = []
    io.listen(told.append)
    threading.Timer(0.3, elsewhere.stdin.write, "\n").start()
    threading.Timer(0.4, elsewhere.stdin.flush).start()
    with io.stage("Loading"), io.waiting(tmp_path / "l.lock", "makes tea"):
        pass
    assert told[0] == "Loading"
    assert told[-2:] == ["Loading", ""]
    assert len(told[1:-2]) > 2, "a sign of life each time"
    assert len(set(told[1:-2])) == 1
    assert told[1].startswith(f"Waiting for process {elsewhere.pid} on ")
    assert told[1].endswith(", which makes tea")


def test_free_lock_is_acquired_silently(tmp_path, capsys):
    with io.waiting(tmp_path / "l.lock", "makes tea"):
        pass
    assert capsys.readouterr().err == ""


def test_reentrant_lock_is_acquired_twice(tmp_path):
    path = tmp_path / "l.lock"
    with io.waiting(path, "a", reentrant=True), io.waiting(path, "b", reentrant=True):
        assert not io.Lock(path).try_acquire()
    lock = io.Lock(path)
    assert lock.try_acquire()
    lock.release()


def test_lock_in_a_missing_folder_raises_oserror(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        io.Lock(tmp_path / "file" / "l.lock").try_acquire()


def test_track_in_a_pipe_prints_two_lines(capsys):
    assert list(io.track(iter(range(60)), 60, "Reading")) == list(range(60))
    first, last = capsys.readouterr().err.splitlines()
    assert first == "Reading: 60 ..."
    assert last.startswith("Reading: 60 in ")


def test_track_of_few_items_is_silent(capsys):
    assert list(io.track(range(49), 49, "Reading")) == list(range(49))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["Training: 4 ..."]),
        ({"unit": "passes"}, ["Training: 4 passes ..."]),
        ({"line": "Once"}, ["Once"]),
        ({"line": ""}, []),
        ({"lines": 2}, ["Training: 4 ...", "Training: 2 of 4, loss 2", "Training: 4 of 4, loss 4"]),
    ],
)
def test_progress_in_a_pipe_is_plain_lines(capsys, options, lines):
    with io.progress("Training", 4, **options) as update:
        for done in range(1, 5):
            update(done, f"loss {done}")
    assert capsys.readouterr().err.splitlines() == lines


def test_progress_in_a_pipe_prints_periodically(capsys, monkeypatch):
    monkeypatch.setattr(io, "_EVERY", 0.0)
    with io.progress("Training", 3.0, unit="passes") as update:
        update(0.5, "loss 1")
    with io.progress("Rendering", None, line="") as update:
        update(7)
    assert capsys.readouterr().err.splitlines()[1:] == ["Training: 0.5 of 3 passes, loss 1", "Rendering: 7"]


def test_track_of_few_slow_items_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(io, "_LATE", 0.05)
    monkeypatch.setattr(io, "_EVERY", 0.0)
    items = (time.sleep(0.2) or number for number in range(3))
    assert list(io.track(items, 3, "Reading")) == [0, 1, 2]
    first, *others, last = capsys.readouterr().err.splitlines()
    assert first == "Reading ..."
    assert "Reading: 2 of 3" in others
    assert last.startswith("Reading: 3 in ")


def test_stage_is_printed_only_when_slow(capsys, monkeypatch):
    monkeypatch.setattr(io, "_LATE", 0.2)
    with io.stage("Loading the model"):
        pass
    with io.stage("Computing intervals"):
        time.sleep(0.6)
    assert capsys.readouterr().err.splitlines() == ["Computing intervals ..."]


def test_nested_short_stages_are_printed_once(capsys, monkeypatch):
    monkeypatch.setattr(io, "_LATE", 0.3)
    with io.stage("Opening"):
        with io.stage("Looking for weights"):
            time.sleep(0.1)
        with io.stage("Loading the model"):
            time.sleep(0.5)
    assert capsys.readouterr().err.splitlines() == ["Loading the model ..."]


def test_listener_receives_stages_and_progress_of_its_thread(capsys):
    heard = []

    def work():
        io.listen(heard.append)
        with io.stage("opening"), io.progress("Decoding", 2) as update:
            update(1)

    thread = threading.Thread(target=work)
    thread.start()
    with io.stage("elsewhere"):
        thread.join()
    assert heard == ["opening", "Decoding", "Decoding: 1 of 2", "opening", ""]


@pytest.mark.parametrize(
    ("total", "unit", "shown"), [(4, "", "4/4"), (0.5, "passes", "0.5/0.5 passes"), (None, "", "7/?")]
)
def test_progress_on_a_terminal_is_a_bar(monkeypatch, total, unit, shown):
    class Terminal(streams.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with io.progress("Training", total, unit=unit) as update:
        update(7, "loss 1")
        with io.progress("Computing features", 9) as inner:
            inner(3)
    written = sys.stderr.getvalue()
    assert "Training, loss 1" in written
    assert shown in written
    assert "Computing features" in written, "work within work has a bar of its own"


@pytest.mark.parametrize(
    ("umask", "mode"), [(0o022, 0o700), (0o027, 0o700), (0o077, 0o700), (0o002, 0o770), (0o007, 0o770)]
)
def test_private_folder_is_closed_unless_the_umask_shares_it(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        io.private_folder(tmp_path / "above" / "folder")
    finally:
        os.umask(before)
    assert (tmp_path / "above" / "folder").stat().st_mode & 0o777 == mode
    assert (tmp_path / "above").stat().st_mode & 0o777 == 0o777 & ~umask


def test_private_folder_keeps_the_mode_of_an_existing_one(tmp_path):
    tmp_path.chmod(0o2775)
    io.private_folder(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o2775
    io.private_folder(tmp_path / "study")
    assert (tmp_path / "study").stat().st_mode & 0o2000, "the group of the folder above is inherited"


def test_private_folder_in_place_of_a_file_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="file"):
        io.private_folder(tmp_path / "file")
