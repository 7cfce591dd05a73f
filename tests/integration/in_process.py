"""In-process backend with one worker around a simulated session, or a real one: no Ray, no threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import simulated
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.search.backend import Backend, BackendError, Event, Reported, TrialLost, WorkerReady
from lungtune.search.controller import Assignment


class InProcess(Backend):
    """Steps its trials in :meth:`poll`.

    Args:
        broken: polls that raise ``BackendError``, by their count from 1.
        deaths: polls in which the worker dies and is replaced.
        slots: trials at a time.
        session: opens the worker's session of a study; one trial reports at a time.
    """

    title = "The test's backend"

    def __init__(
        self,
        broken: tuple[int, ...] = (),
        deaths: tuple[int, ...] = (),
        slots: int = 3,
        session: Callable[[Study], Any] = simulated.SimulatedSession,
    ) -> None:
        self.broken, self.deaths, self.slots, self._opened = broken, deaths, slots, session
        self.polls = 0
        self.log: list[str] = []
        self.together: list[set[int]] = []
        self.alone: set[int] = set()

    def start(self, space: SearchSpace) -> None:
        self.log.append("start")

    def stop(self) -> None:
        self.log.append("stop")

    def open(self, folder: Path, space: SearchSpace) -> None:
        self.log.append("open")
        self._study = Study(folder)
        self._session = self._opened(self._study)
        self._waited: set[int] = set()
        self._known: dict[int, Assignment] = {}
        self._ready = False

    def close(self) -> None:
        self.log.append("close")

    @property
    def devices(self) -> int:
        return 1

    def has_room(self, alone: bool = False) -> bool:
        most = 1 if alone else self.slots
        return self._ready and len(self._known) < most and not self.alone & self._known.keys()

    def submit(self, assignment: Assignment, alone: bool = False) -> None:
        assert self.has_room(alone)
        number = assignment.number
        if alone:
            self.alone.add(number)
        folder = self._study.checkpoints(number)
        self._session.start(number, dict(assignment.params), assignment.seed, folder, assignment.known)
        self._known[number] = assignment
        self._waited.add(number)

    def advance(self, number: int) -> None:
        assert number in self._known
        self._waited.add(number)

    def release(self, number: int, ended: bool) -> None:
        del self._known[number]
        self._session.leave(number)

    def poll(self, seconds: float) -> list[Event]:
        self.polls += 1
        if self.polls in self.broken:
            raise BackendError("the cluster is gone")
        if not self._ready:
            self._ready = True
            about = {"slots": self.slots, "why": "set", "rates": [], "device": "none", "node": ""}
            return [WorkerReady(0, about, {"constant": {"macro_f1": 0.0}})]
        if self.polls in self.deaths:
            return self._die("killed")
        if not self._waited:
            return []
        self.together.append(set(self._known))
        ((number, report),) = self._session.step(self._waited)
        self._waited.discard(number)
        path = os.path.relpath(report.checkpoint or "", self._study.folder)
        outcome: dict[str, Any] = {"number": number, "fidelity": report.fidelity, "samples": report.samples}
        return [Reported(number, outcome | {"metrics": dict(report.metrics), "checkpoint": path, "seconds": 0.0})]

    def _die(self, why: str) -> list[Event]:
        lost: list[Event] = [TrialLost(number, why) for number in self._known]
        self._session, self._known, self._waited = self._opened(self._study), {}, set()
        return lost


BACKEND = InProcess
