"""A search in slices of any length decides as one in one go."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from lungtune.core import journal
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.search import tuner
from lungtune.search.controller import TrialController
from tests.faults.checker import check, check_decisions

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
import simulated
from in_process import InProcess

pytestmark = pytest.mark.timeout(500)

SCHEDULERS = {
    "promote": SchedulerConfig("asha", {"mode": "promote"}),
    "stop": SchedulerConfig("asha", {"mode": "stop"}),
    "none": SchedulerConfig("none"),
}
FAULTS = ("none", "nan", "missing")


def decided(study: Study) -> list[dict[str, Any]]:
    """Return suggestions, reports and ends, without times."""
    kept, drop = ("trial", "report", "end", "pause"), {"time", "seconds", "message"}
    events = (each for each in journal.read(study.journal_path) if each["event"] in kept)
    return [{name: value for name, value in each.items() if name not in drop} for each in events]


class Killed(BaseException):
    """The driver is gone."""


def searched(folder: Path, scheduler: str, cuts: list[tuple[int, str]]) -> Study:
    """Search with one worker of one slot; at a cut, after so many polls, the driver is stopped, or is killed.

    Args:
        folder: of the study.
        scheduler: a key of ``SCHEDULERS``.
        cuts: (polls of the slice, ``stop`` or ``kill``); the last slice is not cut.
    """
    space = simulated.space(16, FAULTS, scheduler=SCHEDULERS[scheduler])
    study = simulated.begin(folder, space)
    for most, how in [*cuts, (10**6, "stop")]:
        controller = TrialController(study, space, 0)
        backend = InProcess(slots=1)
        backend.start(space)

        def tick(backend: InProcess = backend, controller: TrialController = controller) -> None:
            if backend.polls >= most and how == "kill":  # noqa: B023
                raise Killed
            if backend.polls >= most:  # noqa: B023
                controller.request_stop("the time budget is spent")

        with contextlib.suppress(Killed):
            tuner.run_trials(controller, backend, tick)
        study.release()
        study = Study(folder)
        study.acquire()
        if controller.finished:
            break
    return study


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_random_slices_equal_one_go(tmp_path: Path, scheduler: str) -> None:
    straight = decided(searched(tmp_path / "straight", scheduler, []))
    assert {each.get("reason") for each in straight} >= {"nan", "report"}
    chance = random.Random(scheduler)
    for turn in range(4):
        cuts = [(chance.randint(1, 12), chance.choice(["stop", "kill"])) for _ in range(chance.randint(1, 30))]
        study = searched(tmp_path / str(turn), scheduler, cuts)
        assert not study.history().of(State.RUNNING, State.PAUSED)
        assert decided(study) == straight, cuts


@pytest.mark.slow
@pytest.mark.parametrize("slices", [3])
def test_slices_of_a_real_search_decide_as_one_go(search, fault, tmp_path, slices):
    chance = random.Random(slices)
    with fault(f"{slices} slices of random length, by budget and by SIGTERM", "decisions as if undisturbed"):
        drive = search(TRIALS=8, SECONDS=0.1)
        for number in range(slices):
            by_time = number % 2 == 1
            drive.start(*(["--budget", f"{chance.randint(1, 6)}s"] if by_time else []))
            if not by_time:
                drive.wait_for("report", chance.randint(1, 4))
                drive.signal(signal.SIGTERM)
            left = drive.end()
            history = check(drive.folder, left=left, code=3, finished=False)
            assert not history.of(State.FAIL)
            why = "the time budget is spent" if by_time else "SIGTERM"
            assert f"stopped ({why})" in left.out
            assert f"lungtune search --resume --study {drive.name}" in left.out
        history = check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)
        assert len(drive.events("stop")) == slices + 1
        check_decisions(drive.folder, tmp_path / "again")
