"""A study's folder: one driver, whatever happens to its lock, its name and its journal."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from filelock import SoftFileLock

from lungtune.core import environment, io, journal, paths, study
from lungtune.core.io import Lock
from lungtune.core.journal import Journal
from lungtune.core.study import Study
from lungtune.errors import MachineError, StudyError
from tests.integration import simulated


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(study, "BEAT", 0.05)
    monkeypatch.setattr(study, "WATCH", 0.4)
    return tmp_path


def begin(name="s"):
    return simulated.begin(paths.studies() / name, simulated.space(2))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "driver.lock"}


def fail(one, error, before=lambda: None):
    with one.claimed():
        before()
        one.split_path.write_text("split")
        (one.folder / "pictures").mkdir()
        raise error


@pytest.mark.parametrize("how", [ValueError, KeyboardInterrupt])
def test_failed_beginning_leaves_no_folder(how):
    one = Study.new("s", "x")
    with pytest.raises(how, match="no"):
        fail(one, how("no"))
    assert not one.folder.exists()
    assert not list(paths.studies().iterdir())


def test_failed_beginning_leaves_what_was_there():
    one = Study.new("s", "x")
    one.folder.mkdir(parents=True)
    (one.folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no"):
        fail(one, ValueError("no"))
    assert [path.name for path in one.folder.iterdir()] == ["notes.txt"]


def test_loser_leaves_a_study_that_was_begun_meanwhile():
    loser = Study.new("s", "x")
    winner = begin()
    winner.release()
    before = files(winner.folder)
    with pytest.raises(StudyError, match="was begun by another process just now; choose another"), loser.claimed():
        loser.split_path.write_text("other")
    assert files(winner.folder) == before
    loser.acquire()  # the lock is free again
    loser.release()


def test_loser_of_a_held_name_leaves_it():
    loser, winner = Study.new("s", "x"), begin()
    before = files(winner.folder)
    with pytest.raises(StudyError, match=r"'s' is held by process \d+ on"), loser.claimed():
        loser.split_path.write_text("other")
    assert files(winner.folder) == before
    winner.append("target", trials=3)
    winner.release()


def test_chosen_name_moves_on_where_it_was_taken():
    loser = Study.new(None, "x")
    winner = begin("x-1")
    with loser.claimed("x"):
        simulated.begin(loser.folder, simulated.space(2), study=loser)
    assert (winner.name, loser.name) == ("x-1", "x-2")
    loser.release()
    winner.release()


def test_interruption_after_the_beginning_keeps_the_study():
    one = Study.new("s", "x")
    with pytest.raises(KeyboardInterrupt, match="no"):
        fail(one, KeyboardInterrupt("no"), lambda: simulated.begin(one.folder, simulated.space(2), study=one))
    assert Study.open("s").history().study["name"] == "s"


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def opened(**fields):
    """Leave a study as a driver that was killed, or whose lock file was deleted."""
    one = begin()
    one.append("open", engine="hosts", **environment.process() | fields)
    one._driven = False
    one.release()
    return Study.open("s")


def identity(process):
    return {"pid": process.pid, "started": environment._started(process.pid)}


def test_live_driver_without_its_lock_keeps_others_out(sleeper):
    again = opened(**identity(sleeper))
    with pytest.raises(StudyError, match=rf"'s' is held by process {sleeper.pid} on .* since .*; wait for it or stop"):
        again.acquire()
    sleeper.kill()
    sleeper.wait()
    again.acquire()
    again.release()


def test_driver_of_version_0_1_is_recognised(sleeper):
    one = begin()
    one.append("open", pid=sleeper.pid, host=environment.process()["host"])
    one._driven = False
    one.release()
    with pytest.raises(StudyError, match=f"held by process {sleeper.pid}"):
        Study.open("s").acquire()


@pytest.mark.parametrize("fields", [{"started": 5.0}, {"pid": 4_000_000}])
def test_reused_and_dead_pids_are_no_drivers(sleeper, fields):
    again = opened(**{"pid": sleeper.pid} | fields)
    again.acquire()
    again.release()


@pytest.mark.parametrize("elsewhere", [{"host": "elsewhere"}, {"boot": "another"}])
def test_driver_on_another_machine_is_told_by_its_journal(elsewhere, capsys):
    again = opened(**elsewhere)
    left = threading.Event()
    book = Journal(again.journal_path)
    thread = threading.Thread(target=study._beat, args=(book, left))
    thread.start()
    with pytest.raises(StudyError, match=r"'s' is held by process"):
        again.acquire()
    left.set()
    thread.join()
    book.close()
    began = time.monotonic()
    again.acquire()
    assert time.monotonic() - began >= study.WATCH
    assert "left no word: watching for 0.4 s" in capsys.readouterr().err
    again.release()


def test_holder_touches_its_journal():
    one = begin()
    os.utime(one.journal_path, (1, 1))
    time.sleep(0.3)
    assert one.journal_path.stat().st_mtime > 1e9
    one.release()


def test_release_without_a_stop_writes_one():
    one = begin()
    one.append("open", **environment.process())
    one.release()
    assert journal.read(one.journal_path)[-1]["event"] == "stop"


def test_second_writer_ends_the_first():
    one = begin()
    size = one.journal_path.stat().st_size
    other = Journal(one.journal_path)
    other.append("target", trials=5)
    other.close()
    with pytest.raises(StudyError, match=r"another process writes to .*journal.jsonl too, so this one stops"):
        one.append("target", trials=6)
    assert one.history().target == 5
    assert one.journal_path.stat().st_size > size
    one.release()


def test_renamed_folder_stops_its_writer_and_is_locked_under_its_new_name():
    one = begin()
    one.folder.rename(paths.studies() / "new")
    with pytest.raises(MachineError, match=r"was renamed or removed .* go on under the name"):
        one.append("target", trials=6)
    assert not Study.open("new").try_acquire()
    one.discard()
    assert (paths.studies() / "new" / "journal.jsonl").exists()
    one.release()
    again = Study.open("new")
    again.acquire()
    again.release()
    assert Study.of_id(again.history().study["id"], "s").name == "new"
    assert Study.of_id("none") is None


def test_linked_folder_is_one_study(tmp_path):
    one = begin()
    (paths.studies() / "link").symlink_to(one.folder)
    with pytest.raises(StudyError, match="'link' is held by"):
        Study.open("link").acquire()
    one.release()


@pytest.mark.parametrize(
    ("name", "message"),
    [("driver.lock", r"driver.lock must be writable .* Is a directory"), ("journal.jsonl", "there is no study 's'")],
)
def test_folder_in_place_of_a_file_is_named(name, message):
    one = begin()
    one.release()
    (one.folder / name).unlink(missing_ok=True)
    (one.folder / name).mkdir()
    with pytest.raises(StudyError, match=message):
        Study.open("s").acquire()


def test_missing_line_of_a_journal_is_named():
    one = begin()
    one.append("report", trial=3, fidelity=1, samples=1, metrics={}, checkpoint=None)
    one.release()
    with pytest.raises(StudyError, match=r"journal.jsonl: event 3 \(report\) must follow .* back from a copy"):
        Study.open("s")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_lock_works_where_the_file_system_has_none(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    one, two = Lock(tmp_path / "x.lock"), Lock(tmp_path / "x.lock")
    assert one.try_acquire()
    assert isinstance(one._lock, SoftFileLock)
    assert not two.try_acquire()
    time.sleep(2.2)  # filelock takes a file that it can't read for a stale one after two seconds
    assert not two.try_acquire(0.2)
    assert Lock(tmp_path / "x.lock").holder() == f"process {os.getpid()} on {environment.process()['host']}"
    one.release()
    assert two.try_acquire()
    two.release()
    code = "import os, sys; from filelock import SoftFileLock as L\nL(sys.argv[1]).acquire(); os._exit(0)"
    held = io.Lock(tmp_path / "x.lock")._held if (tmp_path / "x.lock").exists() else tmp_path / "x.lock"
    subprocess.run([sys.executable, "-c", code, str(held)], check=True)
    assert two.try_acquire(3), "the lock of a dead process is replaced"
    two.release()
