"""Disks that fill, fail or go away under a search: trials are kept, and resume goes on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.trial import State
from tests.faults.checker import check, check_decisions

pytestmark = pytest.mark.timeout(400)

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int fsync(int fd) {  /* EIO for files under checkpoints/ while the file FAILING exists */
    static int (*real)(int);
    const char *flag = getenv("FAILING");
    char link[64], path[4096];
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    if (flag && access(flag, F_OK) == 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(link, path, sizeof path - 1);
        if (size > 0) {
            path[size] = 0;
            if (strstr(path, "/checkpoints/")) { errno = EIO; return -1; }
        }
    }
    return real(fd);
}
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one mebibyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte; return the file to remove."""
    filler = folder / "filler"
    with open(filler, "ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


@pytest.mark.slow
def test_full_disk_loses_no_trial(search, fault, tmp_path, disk):
    with fault("the disk of the study fills up", "exit code 3; no trial fails; with room again, resume goes on"):
        drive = search(home=disk / "home", TRIALS=5, SECONDS=0.1).start()
        drive.wait_for("report", 3)
        filler = fill(disk)
        left = drive.end()
        history = check(drive.folder, left=left, code=3, says="No space left on device", finished=False)
        assert not history.of(State.FAIL)
        assert f"lungtune search --resume --study {drive.name}" in left.out
        raw = (drive.folder / "journal.jsonl").read_bytes()
        assert raw.endswith(b"\n"), "a torn line"
        filler.unlink()
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        assert drive.events("trial")[0]["origin"] == "start"
        check_decisions(drive.folder, tmp_path / "again")


@pytest.mark.slow
def test_full_disk_of_mlflow_stops_nothing(search, fault, furnish, disk):
    with fault("the disk of MLflow's store fills up", "the search ends with exit code 0; a later sync delivers"):
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        uri = furnish(disk / "mlflow.db")
        drive = search(uri=uri, TRIALS=4, SECONDS=0.1).start()
        drive.wait_for("report", 1)
        filler = fill(disk)
        left = drive.end()
        check(drive.folder, left=left, code=0)
        assert "events are not in MLflow yet" in left.out
        filler.unlink()
        check(drive.folder, uri=uri)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hosts", "tune"])
def test_failing_disk_stops_the_search_and_costs_no_trial(search, fault, tmp_path, engine):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    shim, flag = tmp_path / "shim.so", tmp_path / "failing"
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", shim, "-ldl"], input=SHIM.encode(), check=True)
    with fault(f"EIO from every checkpoint ({engine})", "exit code 3 after three; no trial fails; resume goes on"):
        drive = search(engine, TRIALS=5, SECONDS=0.1, LD_PRELOAD=shim, FAILING=flag).start()
        drive.wait_for("report", 3)
        flag.touch()
        left = drive.end()
        history = check(drive.folder, left=left, code=3, says="Input/output error", finished=False)
        assert not history.of(State.FAIL)
        assert {each["fault"] for each in drive.events("lost")} == {"machine"}
        flag.unlink()
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        check_decisions(drive.folder, tmp_path / "again")


@pytest.mark.slow
def test_removed_folder_ends_the_search(search, fault, tmp_path):
    with fault("the study's folder is moved away while trials train", "exit code 3; put back, resume goes on"):
        drive = search(TRIALS=5, SECONDS=0.2).start()
        drive.wait_for("report", 2)
        shutil.copytree(drive.folder, tmp_path / "copy")
        shutil.rmtree(drive.folder)
        left = drive.end()
        assert left.code == 3, left
        assert "was renamed or removed while this process wrote to it" in left.out
        assert "Traceback" not in left.out + left.err
        shutil.rmtree(drive.folder, ignore_errors=True)
        shutil.copytree(tmp_path / "copy", drive.folder)
        assert journal.read(drive.folder / "journal.jsonl")
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)


def test_full_disk_at_the_start_leaves_no_study(tmp_path, fault, disk):
    with fault("the disk is full when a study begins", "exit code 3 and a sentence; no study is left"):
        from tests.faults.test_stops import SEARCH, command

        (disk / "studies").mkdir()
        filler = fill(disk)
        words = [*SEARCH, "--data", "phantom,n=160,test=60", "--set", "synthetic_ratio=0"]
        process = command(disk, *words, cache=tmp_path / "cache")
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 3, out
        assert "No space left on device" in out
        assert "before the study began; nothing of it was kept" in out
        assert "Traceback" not in out
        assert filler.exists()
        assert not list((disk / "studies").iterdir())
