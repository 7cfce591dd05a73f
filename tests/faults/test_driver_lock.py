"""One driver, one split: racing drivers, deleted and stale locks, other splits, damaged journals, renamed folders."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lungtune.core import environment, study
from lungtune.core.study import Study
from tests.faults.checker import check
from tests.integration import retrain_study, simulated


@pytest.fixture
def mini(tmp_path, monkeypatch):
    home = retrain_study.copy(tmp_path / "home", monkeypatch.setenv)
    return Study(home / "studies" / "mini")


def twin(drive, search):
    """Another search of the same study, with output files of its own."""
    home = drive.home.with_name("second")
    home.mkdir()
    (drive.home / "studies").mkdir(exist_ok=True)
    (home / "studies").symlink_to(drive.home / "studies")
    return search(home=home, uri=drive.uri)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(left, says):
    assert left.code == 2, left
    assert re.search(says, left.err), left.err
    assert "Traceback" not in left.out + left.err


@pytest.mark.slow
def test_of_two_drivers_that_begin_one_name_one_wins(search, fault):
    with fault("two drivers begin one name at the same moment", "one wins; the other is refused and leaves no trace"):
        first = search(TRIALS=3)
        second = twin(first, search)
        first.start()
        second.start()
        left = sorted([first.end(), second.end()], key=lambda each: each.code)
        check(first.folder, uri=first.uri, left=left[0], code=0)
        refused(left[1], r"held by process \d+|was begun by another process|exists already")
        assert [path.name for path in first.folder.parent.iterdir()] == ["s"]


@pytest.mark.slow
def test_deleted_lock_admits_no_second_driver(search, fault):
    with fault("driver.lock deleted while trials train", "a second driver is refused: the journal names the first"):
        first = search(TRIALS=3, SECONDS=2).start()
        first.wait_for("report")
        (first.folder / "driver.lock").unlink()
        second = twin(first, search).start("--trials", "3")
        refused(second.end(), rf"study 's' is held by process {first.pid} on .* since .*; wait for it or stop it first")
        check(first.folder, uri=first.uri, left=first.end(), code=0)


@pytest.mark.slow  # two starts of Ray
def test_pid_of_a_dead_driver_may_be_used_again(search, fault):
    with fault("driver killed -9, its pid used by another process", "resume goes on"):
        drive = search(TRIALS=2).start()
        drive.wait_for("report")
        drive.signal(signal.SIGKILL)
        drive.end()
        other = subprocess.Popen(["sleep", "120"])
        try:
            path = drive.folder / "journal.jsonl"
            path.write_text(path.read_text().replace(f'"pid":{drive.pid}', f'"pid":{other.pid}'))
            check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        finally:
            other.kill()
            other.wait()


@pytest.mark.slow  # two starts of Ray
def test_renamed_folder_ends_the_driver_and_resumes(search, fault):
    with fault(
        "study's folder renamed while trials train", "the driver stops with a sentence; resume under the new name"
    ):
        drive = search(TRIALS=3, SECONDS=0.2).start()
        drive.wait_for("report", 2)
        new = drive.folder.with_name("new")
        drive.folder.rename(new)
        left = drive.end()
        assert left.code == 3, left
        assert re.search(r"was renamed or removed while this process wrote to it", left.out + left.err), left
        assert "Traceback" not in left.out + left.err
        again = search(uri=drive.uri, home=drive.home)
        again.folder, again.name = new, "new"
        check(new, uri=drive.uri, left=again.start().end(), code=0)


def opened_elsewhere(folder):
    """Leave a study as a driver on another machine left it that was killed, or drives it still."""
    one = simulated.begin(folder, simulated.space(2))
    one.append("open", engine="hosts", **environment.process() | {"host": "node-7"})
    one._driven = False
    one.release()


def test_driver_on_another_machine_is_told_by_its_journal(tmp_path, monkeypatch, door, fault):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    folder = tmp_path / "studies" / "s"
    opened_elsewhere(folder)
    ended = threading.Event()

    def beat():
        while not ended.wait(study.BEAT):
            (folder / "journal.jsonl").touch()

    with fault("lock that does not reach another machine's driver", "refused while that driver's journal is touched"):
        thread = threading.Thread(target=beat)
        thread.start()
        left = door("search", "--resume", "--study", "s")
        ended.set()
        thread.join()
        refused(left, r"process \d+ on node-7 since .* left no word: watching for 12 s")
        refused(left, r"error: the study 's' is held by process \d+ on node-7")
    with fault("driver on another machine that died", "resume goes on after 12 s without a sign of life"):
        began = time.monotonic()
        one = Study.open("s")
        one.acquire()
        one.release()
        assert study.WATCH <= time.monotonic() - began < study.WATCH + 5


@pytest.mark.parametrize("how", ["replaced", "deleted", "edited", "folder"])
@pytest.mark.parametrize(
    "command",
    [
        ("search", "--resume", "--study", "mini"),
        ("export", "--study", "mini"),
        ("clone", "mini", "1", "--set", "lr=0.1"),
    ],
)
def test_another_split_is_refused(mini, door, fault, how, command):
    path = mini.split_path
    text = path.read_text()
    path.unlink()
    if how == "replaced":
        simulated.manifest().save(path)
    elif how == "edited":
        content = json.loads(text)
        content["parts"]["validation"]["group"][0] = "somebody"
        path.write_text(json.dumps(content))
    elif how == "folder":
        path.mkdir()
    before = everything(mini.folder)
    with fault(f"split.json {how}, then {command[0]}", "refused: what differs and the way out"):
        refused(door(*command), r"split\.json .*Put the study's own file back from a copy, or begin a new study\.")
        assert everything(mini.folder) == before


def cut(lines):
    return [lines[0], lines[1][: len(lines[1]) // 2] + "\n", *lines[2:]]


def dropped(lines):
    return [line for line in lines if '"event":"trial"' not in line]


def newer(lines):
    return [json.dumps(json.loads(lines[0]) | {"schema": 99}, separators=(",", ":")) + "\n", *lines[1:]]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut, r"journal\.jsonl:2: every line must be a JSON object"),
        (dropped, r"journal\.jsonl: event \d+ \(report\) must follow from those before it, .* back from a copy"),
        (newer, r"must be of schema 2 or older, but is of schema 99"),
        (lambda lines: [], r"'mini' was interrupted before it began and holds nothing"),
        (lambda lines: lines[1:], r"must follow from those before it|was interrupted before it began"),
    ],
    ids=["cut", "dropped", "newer", "empty", "headless"],
)
def test_damaged_journal_is_named(mini, door, fault, damage, says, request):
    path = mini.journal_path
    path.write_text("".join(damage(path.read_text().splitlines(keepends=True))))
    before = everything(mini.folder)
    with fault(f"journal damaged: {request.node.callspec.id}", "refused: the file, the line, how to mend it"):
        for command in (("search", "--resume"), ("export",)):
            refused(door(*command, "--study", "mini"), says)
        assert everything(mini.folder) == before


def test_torn_last_line_is_put_aside(mini, fault):
    with fault("journal torn at its end", "the torn line is put aside; nothing else changes"):
        before = mini.history().trials
        with mini.journal_path.open("a") as file:
            file.write('{"event":"repo')
        mini.acquire()
        mini.release()
        assert mini.healed == 14
        assert mini.history().trials == before
        assert (mini.folder / "journal.jsonl.torn").read_text() == '{"event":"repo\n'


def test_folder_in_place_of_the_lock_is_named(mini, door, fault):
    lock = mini.folder / "driver.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    with fault("driver.lock replaced by a folder", "refused: its path and why"):
        refused(door("search", "--resume", "--study", "mini"), rf"{lock} must be writable .*: Is a directory")


def test_read_only_study_is_named(mini, door, fault, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        shutil.copytree(mini.folder, disk / "mini")
        shutil.rmtree(mini.folder)
        mini.folder.symlink_to(disk / "mini")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with fault("study's folder read-only", "resume is refused; export works"):
            says = r"must be writable to hold the study, but: Read-only file system"
            refused(door("search", "--resume", "--study", "mini"), says)
            assert door("export", "--study", "mini").code == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_linked_folder_has_one_driver(mini, door, fault):
    link = Path(f"{mini.folder}-link")
    link.symlink_to(mini.folder)
    mini.acquire()
    with fault("study opened under a link's name while it is held", "refused"):
        refused(door("search", "--resume", "--study", link.name), r"held by process \d+ on")
    mini.release()
