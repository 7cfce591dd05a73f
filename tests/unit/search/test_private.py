"""`ray_hosts.private`: the folder of a local Ray."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lungtune.errors import StudyError
from lungtune.search.backends.ray_hosts import private

HOLD = """
import sys
from lungtune.search.backends.ray_hosts import private
print(private.folder(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path_factory):
    """A short folder of temporary files."""
    short = Path(os.path.realpath("/tmp")) / f"lt{os.getpid()}"
    short.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    yield short
    private.clean()
    shutil.rmtree(short)


def age(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_folder_is_inside_one_of_the_users_alone(place):
    folder = private.folder()
    assert folder.parent.parent == place
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    private.clean()
    assert not folder.parent.exists()


def test_folders_of_killed_processes_are_deleted_and_of_live_ones_kept(place):
    other = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    held = Path(other.stdout.readline().strip()).parent
    age(held)
    private.folder()
    assert held.exists(), "its process lives"
    other.kill()
    other.communicate()
    age(held)
    private.folder()
    assert not held.exists()


def test_only_rays_processes_of_a_folder_end_with_it(place):
    folder = private.folder()
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    words = [f"--session-dir={folder}/session_1", f"{folder}/session_1/logs", f"--session-dir={folder.parent}-mine/ray"]
    rays, reader, other = [subprocess.Popen([*sleep, word]) for word in words]
    try:
        private.clean()
        assert rays.wait(10) == -signal.SIGKILL
        assert (reader.poll(), other.poll()) == (None, None)
    finally:
        for process in (rays, reader, other):
            process.kill()
            process.wait()


def test_young_folders_are_kept(place):
    left = place / "lungtune-ray-new"
    left.mkdir()
    (left / "lock").touch()
    private.folder()
    assert left.exists()
    age(left)
    private.folder()
    assert not left.exists()


@pytest.mark.parametrize("name", ["lungtune-mine", "lungtune-ray-mine"])
def test_folders_without_the_lock_are_kept(place, name):
    (place / name).mkdir()
    age(place / name)
    private.folder()
    assert (place / name).exists()


def test_linked_folders_are_not_followed(place, tmp_path):
    (tmp_path / "mine").write_text("")
    (place / "lungtune-ray-link").symlink_to(tmp_path)
    os.utime(place / "lungtune-ray-link", (0, 0), follow_symlinks=False)
    private.folder()
    assert (tmp_path / "mine").exists()
    (place / "lungtune-ray-link").unlink()


def test_long_folder_of_temporary_files_is_left_for_tmp(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_TMPDIR")
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert private.folder().parent.parent == Path("/tmp")


def test_long_ray_tmpdir_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 60)))
    with pytest.raises(StudyError, match=r"RAY_TMPDIR must have at most \d\d characters"):
        private.folder()


def test_missing_ray_tmpdir_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/lt-none")
    with pytest.raises(StudyError, match=r"must be writable for Ray, but: No such file.*RAY_TMPDIR moves it"):
        private.folder()
