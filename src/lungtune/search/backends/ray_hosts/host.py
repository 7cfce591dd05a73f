"""Host process of one device: owns its backbone, pixels and pack. Imports no ray.

Calls from other processes arrive at any time; trials join and leave between two steps. Only trials with a pending
``train`` call are trained.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lungtune.core import io, machine, paths
from lungtune.core.study import Study
from lungtune.errors import TrialError
from lungtune.search import device_session
from lungtune.search.backends.ray_hosts import processes
from lungtune.search.backends.ray_hosts.watch import Pulse
from lungtune.search.device_session import DeviceSession


@dataclass
class _Call:
    """A pending request for a trial's next report."""

    assignment: Mapping[str, Any]
    fresh: bool
    answered: threading.Event = field(default_factory=threading.Event)
    outcome: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0


class PackHost:
    """Trains trials on one device, as many at a time as its session has slots.

    Libraries are imported before :meth:`open`, which is called once.

    Args:
        threads: number of cores this host may use.
        driver: id of the process whose end ends this one; None if it may be on another machine.
        own: the driver's folders of user-defined families, which a running cluster may not know.
        slots: trials at a time; 0: as the study says, or as measured.
    """

    def __init__(self, threads: int, driver: int | None, own: Sequence[str] = (), slots: int = 0) -> None:
        if driver is not None:
            die_with(driver)
        if own:
            paths.name_own_folders(own)
        self._study: Study
        self._named = threading.Event()
        self._threads, self._slots = threads, slots
        self.owners: dict[Any, Any] = {}
        """Caller that trained a trial last, where callers are objects of this process."""
        self._session: Any = None
        self._about: dict[str, Any] = {}
        self._doing = ""
        self._beats = 0
        self._unnamed = False
        self._problem: BaseException | None = None
        self._opened = threading.Event()
        self._calls: dict[Any, _Call] = {}
        self._leaving: set[Any] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def open(self, study: str) -> None:
        """Open the study in the folder ``study``; returns at once."""
        self._study = Study(Path(study))
        self._named.set()

    def ready(self) -> dict[str, Any]:
        """Wait until a study is open and trials can be trained.

        Returns:
            ``DeviceSession.about``, with its ``references`` if there are any.

        Raises:
            LungtuneError: the backbone or the images are not available on this machine.
        """
        self._opened.wait()
        if self._problem is not None:
            raise self._problem
        return self._about

    def who(self) -> processes.Identity:
        """Return the identity of this process."""
        return processes.identity()

    def pulse(self) -> Pulse:
        """Return the signs of life of this process; called every second."""
        return Pulse(self._doing, self.at_work, self._beats, *processes.used())

    @property
    def at_work(self) -> bool:
        """False while there is nothing to do: no study is named, or no report asked for."""
        return bool(self._calls or self._leaving) if self._opened.is_set() else not self._unnamed

    def train(self, assignment: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """Train a trial to its next report; return it.

        Args:
            assignment: ``number``, ``params``, ``seed``, ``known``, ``segment`` (``controller.Assignment``), and the
                ``folder`` of its checkpoints, where it is not the study's for that number.
            fresh: reload the newest checkpoint even if the trial is in the pack.

        Returns:
            ``number`` with ``fidelity``, ``samples``, ``metrics``, ``checkpoint`` (relative to the study) and
            ``seconds``, or with ``failure`` {reason, message}: errors of a trial are returned, not raised.
        """
        self.ready()
        call = _Call(assignment, fresh)
        with self._changed:
            before = self._calls.get(assignment["number"])
            self._calls[assignment["number"]] = call
            self._leaving.discard(assignment["number"])
            self._changed.notify()
        if before is not None:
            before.answered.set()
        call.answered.wait()
        return call.outcome

    def leave(self, number: Any) -> None:
        """Release a trial's slot; deferred while a :meth:`train` call for it is pending."""
        with self._changed:
            self._leaving.add(number)
            self._changed.notify()

    def _work(self) -> None:
        """Main function of the thread that owns the pack."""
        io.listen(self._listen)
        try:
            self.preload()
            self._unnamed = True
            self._named.wait()
            self._unnamed = False
            opened = self.open_session()
            self._session, self._about = opened.sessions, dict(opened.about)
            if opened.references:
                self._about["references"] = dict(opened.references)
        except Exception as error:
            self._problem = error
        self._opened.set()
        if self._problem is not None:
            return
        try:
            while True:
                self._turn()
        except BaseException:  # device state unknown: exit, so that callers see a dead host and trials move
            traceback.print_exc()
            os._exit(1)

    def _listen(self, what: str) -> None:
        self._doing = what
        self._beats += 1

    def _turn(self) -> None:
        """Remove and add trials, then train those with a pending call by one step."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._leaving)
            calls = dict(self._calls)
            leaving = {number for number in self._leaving if number not in calls}
            self._leaving -= leaving
        for number in leaving:
            self._let_go(number)
        for number, call in calls.items():
            if call.fresh or number not in self._session.runs:
                call.fresh = False
                self._join(call, calls)
            call.began = call.began or time.perf_counter()
        active = {number for number in calls if number in self._session.runs}
        for number, due in self._step(active) if active else ():
            if isinstance(due, BaseException) and _beyond_repair(due):
                raise due
            self._answer(number, self._outcome(calls[number], due))
        self._beats += 1

    def _let_go(self, number: int) -> None:
        if number in self._session.runs:
            self._session.leave(number)

    def _join(self, call: _Call, waited_for: Collection[int]) -> None:
        number, params, seed, known = (call.assignment[name] for name in ("number", "params", "seed", "known"))
        self._let_go(number)
        if len(self._session.runs) >= self._about["slots"]:  # trials without a pending call
            for other in set(self._session.runs) - set(waited_for):
                self._let_go(other)
        try:
            segment = call.assignment.get("segment", 0)
            folder = call.assignment.get("folder") or self._study.checkpoints(number, segment)
            self._session.start(number, params, seed, Path(folder), known)
        except Exception as error:  # a trial may raise anything; the study continues
            if _beyond_repair(error):
                raise
            self._answer(number, self._outcome(call, error))

    def _step(self, numbers: Collection[int]) -> list[tuple[int, Any]]:
        """Train trials by one step; an error of one trial fails only that trial."""
        try:
            return list(self._session.step(numbers))
        except Exception as error:
            if _beyond_repair(error):
                raise
            if len(numbers) == 1:
                return [(number, error) for number in numbers]
        return [due for number in numbers for due in self._step([number])]

    def _outcome(self, call: _Call, due: Any) -> dict[str, Any]:
        number = call.assignment["number"]
        if isinstance(due, BaseException):
            if fault := machine.kind(due):
                self._let_go(number)  # its state in memory is ahead of its checkpoint
                return {"number": number, "failure": {"reason": fault, "message": machine.sentence(due)}}
            reason = due.reason if isinstance(due, TrialError) else _reason(due)
            message = "".join(traceback.format_exception(due))[-8000:]
            return {"number": number, "failure": {"reason": reason, "message": message}}
        return {
            "number": number,
            "fidelity": due.fidelity,
            "samples": due.samples,
            "metrics": dict(due.metrics),
            "checkpoint": os.path.relpath(due.checkpoint, self._study.folder),
            "seconds": time.perf_counter() - call.began,
        }

    def _answer(self, number: int, outcome: dict[str, Any]) -> None:
        with self._changed:
            call = self._calls.pop(number)
        call.outcome = outcome
        call.answered.set()

    def preload(self) -> None:
        """Import the libraries every study needs."""
        device_session.preload()

    def open_session(self) -> DeviceSession:
        """Return the session that trains this host's trials."""
        return device_session.open_session(self._study.folder, self._threads, self._slots)


def _reason(error: BaseException) -> str:
    from lungtune.engine import memory

    return "oom" if memory.exhausted(error) else "error"


def _beyond_repair(error: BaseException) -> bool:
    """True if an error leaves the device unusable for this process, such as asynchronous CUDA errors."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def die_with(driver: int) -> None:
    """Exit within about a second of the end of the process ``driver`` on this machine."""

    def watch() -> None:
        while True:
            time.sleep(1.0)
            try:
                os.kill(driver, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
