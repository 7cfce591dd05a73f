"""``kill -9`` of the driver, then resume."""

from __future__ import annotations

import signal

import pytest

from tests.faults.checker import check, check_decisions
from tests.faults.drive import gone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["hosts", "tune"])
def test_killed_driver_resumes_with_the_same_decisions(search, fault, tmp_path, engine):
    with fault(f"driver killed -9 while trials train ({engine})", "resume goes on; decisions as if undisturbed"):
        drive = search(engine, TRIALS=6).start()
        drive.wait_for("report", 4)
        children = set(drive.children()) - set(drive.children("agent"))  # Ray's agents wait a minute for a dead GCS
        drive.signal(signal.SIGKILL)
        assert drive.end().code == -signal.SIGKILL
        assert gone(sorted(children)), "processes of the killed search are left"
        left = drive.start().end()
        check(drive.folder, uri=drive.uri, left=left, code=0)
        check_decisions(drive.folder, tmp_path / "again")
