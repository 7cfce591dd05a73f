"""A device's host: the process that owns its backbone, its pixels and its pack.

Trials join, leave and wait for verdicts between two steps of the others; the calls that say so come from other
processes at any time. Only trials whose next report somebody waits for are trained.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lungtune import catalog
from lungtune.core.family import Generator
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import TrialError


@dataclass
class _Call:
    """Somebody waits for a trial's next report."""

    assignment: Mapping[str, Any]
    fresh: bool
    answered: threading.Event = field(default_factory=threading.Event)
    outcome: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0


class PackHost:
    """Trains the trials it is given, as many together as its device trains fastest.

    Args:
        study: the study's folder.
        threads: cores this host may use.
        driver: process to die with; None if it may be on another machine.
    """

    def __init__(self, study: str, threads: int, driver: int | None) -> None:
        if driver is not None:
            die_with(driver)
        self._study = Study(Path(study))
        self._threads = threads
        self._session: Any = None
        self._about: dict[str, Any] = {}
        self._problem: BaseException | None = None
        self._opened = threading.Event()
        self._calls: dict[int, _Call] = {}
        self._leaving: set[int] = set()
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def ready(self) -> dict[str, Any]:
        """Wait until trials can be trained; return ``slots``, ``why``, ``rates``, ``device`` and ``node``.

        ``references`` beside them are scores that trials are read beside (``Evaluator.references``).

        Raises:
            LungtuneError: the backbone or the images cannot be had here.
        """
        self._opened.wait()
        if self._problem is not None:
            raise self._problem
        return self._about

    def train(self, assignment: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
        """Train a trial to its next report; return it.

        Args:
            assignment: ``number``, ``params``, ``seed``, ``known`` (see ``controller.Assignment``).
            fresh: begin from the newest checkpoint, even if the trial is in the pack: whoever asked before is gone.

        Returns:
            ``number`` with ``fidelity``, ``samples``, ``metrics``, ``checkpoint`` (relative to the study) and
            ``seconds``, or with ``failure`` {reason, message}. A trial raises nothing.
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

    def leave(self, number: int) -> None:
        """Let a trial go: it ended, was paused, or trains elsewhere. One that is waited for goes after its report."""
        with self._changed:
            self._leaving.add(number)
            self._changed.notify()

    def _work(self) -> None:
        """The thread that owns the pack."""
        try:
            self._session = self.open_session()
        except Exception as error:
            self._problem = error
        self._opened.set()
        if self._problem is not None:
            return
        try:
            while True:
                self._turn()
        except BaseException:  # the device cannot be trusted: callers see the process die, trials go on elsewhere
            traceback.print_exc()
            os._exit(1)

    def _turn(self) -> None:
        """Let trials leave and join, then train those that are waited for by one step."""
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
            self._answer(number, self._outcome(calls[number], due))

    def _let_go(self, number: int) -> None:
        if number in self._session.runs:
            self._session.leave(number)

    def _join(self, call: _Call, waited_for: Collection[int]) -> None:
        number, params, seed, known = (call.assignment[name] for name in ("number", "params", "seed", "known"))
        self._let_go(number)
        if len(self._session.runs) >= self._about["slots"]:  # some ended unheard; their checkpoints hold them
            for other in set(self._session.runs) - set(waited_for):
                self._let_go(other)
        try:
            self._session.start(number, params, seed, self._study.checkpoints(number), known)
        except Exception as error:  # a trial may raise anything; the study goes on
            if _beyond_repair(error):
                raise
            self._answer(number, self._outcome(call, error))

    def _step(self, numbers: Collection[int]) -> list[tuple[int, Any]]:
        """Train trials by one step; one that raises fails alone."""
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

    def open_session(self) -> Any:
        """Return the session in which this process trains its trials, with as many slots as are best here."""
        import torch

        from lungtune.data import dataset
        from lungtune.data.synthetic_bank import Bank
        from lungtune.engine.session import Sessions, device

        torch.set_num_threads(self._threads)
        history = self._study.history()
        space, about = SearchSpace.from_dict(history.study["space"]), history.study.get("data", {}).get("bank")
        bank = Bank.again(about) if about else None
        sessions = Sessions(
            space,
            catalog.family,
            lambda size, masks: dataset.load(self._study.split_path, size, masks=masks, bank=bank),
            slots=max(1, space.slots),
        )
        first = sessions.on(*space.bases[0])
        name = torch.cuda.get_device_name() if device() == "cuda" else f"CPU, {self._threads} thread(s)"
        self._about = {"node": socket.gethostname(), "device": name, "slots": space.slots, "why": "set", "rates": []}
        if not space.slots and len(space.bases) > 1:
            self._about |= {"slots": 1, "why": "trials of different bases cannot share steps"}
        elif not space.slots and not first.trainable.packs:
            self._about |= {"slots": 1, "why": "each trial trains a whole network: there is nothing to share"}
        elif not space.slots:
            found = first.fit(space.max_slots, _starts(space))
            self._about |= {"slots": found.slots, "why": found.why, "rates": [asdict(rate) for rate in found.rates]}
        if not history.baselines and isinstance(first.trainable, Generator):
            self._about["references"] = first.references(_starts(space)[-1])  # the one chosen for this base
        return sessions


def _starts(space: SearchSpace) -> list[Mapping[str, Any]]:
    return [space.configuration({**space.fixed, **start}).params for start in space.start or ({},)]


def _reason(error: BaseException) -> str:
    from lungtune.engine import memory

    return "oom" if memory.exhausted(error) else "error"


def _beyond_repair(error: BaseException) -> bool:
    """Whether an error leaves the device unusable for this process, as CUDA's asynchronous ones do."""
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)


def die_with(driver: int) -> None:
    """Leave when a process of this machine is gone: a host that lives on would train for nobody."""

    def watch() -> None:
        while True:
            time.sleep(1.0)
            try:
                os.kill(driver, 0)
            except ProcessLookupError:
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
