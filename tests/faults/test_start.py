"""Faults while Ray starts: it is started again, or the search ends in a sentence and leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.checker import check
from tests.faults.drive import Drive, gone

NOT_STARTED = r"stopped \(Ray could not be started: .*\)\. Go on with:\n  lungtune search --resume --study s"


@contextmanager
def each(drive: Drive, kind: str, number: int, most: int = 1000) -> Iterator[list[int]]:
    """Signal every new process of a kind below the driver, at most so many; the list of their ids grows."""
    hit: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and len(hit) < most:
            for pid in [pid for pid in drive.children(kind) if pid not in hit][: most - len(hit)]:
                os.kill(pid, number)
                hit.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
def test_raylet_killed_while_it_starts_is_started_again(search, fault):
    with fault("raylet killed -9 while Ray starts", "started again"):
        drive = search(TRIALS=4).start()
        with each(drive, "raylet", signal.SIGKILL, most=1) as killed:
            left = drive.end()
        assert killed
        check(drive.folder, uri=drive.uri, left=left, code=0)


@pytest.mark.slow
def test_ray_that_fails_twice_ends_the_search_cleanly(search, fault):
    with fault("Ray's start fails twice", "one sentence, exit code 3, no process left; resumable"):
        drive = search(TRIALS=4).start()
        with each(drive, "raylet", signal.SIGKILL) as killed:
            left = drive.end()
        assert len(killed) == 2
        assert not session_processes(drive)
        check(drive.folder, left=left, code=3, says=NOT_STARTED, finished=False)
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)


@pytest.mark.slow
def test_ray_that_hangs_while_it_starts_ends_the_search_cleanly(search, fault):
    with fault("Ray's start hangs (its head is stopped)", "one sentence, exit code 3, no process left"):
        drive = search(TRIALS=4, LIMITS="local_ray.START=6", RAY_gcs_server_port_wait_time_s=8).start()
        with each(drive, "gcs", signal.SIGSTOP) as stopped:
            left = drive.end()
        assert gone(stopped)
        assert not session_processes(drive)
        check(drive.folder, left=left, code=3, says=NOT_STARTED, finished=False)


@pytest.mark.slow
@pytest.mark.alone
def test_search_starts_beside_sixty_busy_processes(search, fault):
    with fault(
        "60 busy processes beside, for two minutes",
        "starts late, or one sentence and exit code 3; no process left or replaced",
    ):
        drive = search(TRIALS=4)
        drive.start()
        busy = "import time; end = time.monotonic() + 120\nwhile time.monotonic() < end: pass"
        while not drive.children("gcs"):  # the imports before are no part of the fault
            assert drive.process.poll() is None
            time.sleep(0.05)
        # a session each: else the kernel's autogroups give all of them together as much as the search
        others = [subprocess.Popen([sys.executable, "-c", busy], start_new_session=True) for _ in range(60)]
        try:
            left = drive.end(230)
        finally:
            for process in others:
                process.kill()
            for process in others:
                process.wait()
        assert not drive.events("lost")
        assert "starts again" not in left.out
        if left.code != 0:
            assert not session_processes(drive)
            check(drive.folder, left=left, code=3, says=NOT_STARTED, finished=False)
            left = drive.start().end()
        check(drive.folder, uri=drive.uri, left=left, code=0)


def session_processes(drive: Drive) -> list[str]:
    """Wait for the end of the processes that a search's driver started; return the command lines of those left."""
    end = time.monotonic() + 10
    while (found := _of_session(drive)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _of_session(drive: Drive) -> list[str]:
    """Return command lines of processes with the home of a search in their environment, its driver aside."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as line:
                if f"LUNGTUNE_HOME={drive.home}".encode() in environ.read().split(b"\0"):
                    found.append(line.read().replace(b"\0", b" ").decode(errors="replace")[:100])
        except OSError:
            continue
    return found
