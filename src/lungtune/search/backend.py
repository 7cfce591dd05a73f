"""Interface of backends: where trials train. The tuner and the controller know no other part of them.

Members lie in ``search/backends``.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lungtune.core.space import SearchSpace
from lungtune.errors import LungtuneError, StudyError
from lungtune.search.controller import Assignment


class BackendError(LungtuneError):
    """A backend failed as a whole, all workers included; it may be stopped and started again."""


@dataclass(frozen=True)
class Reported:
    """A trial reached its next report, or failed; it waits for ``advance`` or ``release``.

    Attributes:
        number: of the trial.
        outcome: see ``TrialController.report``.
    """

    number: int
    outcome: Mapping[str, Any]


@dataclass(frozen=True)
class TrialLost:
    """A trial's worker died, or was ended because it hung; the trial is on no worker any more."""

    number: int
    why: str


@dataclass(frozen=True)
class WorkerReady:
    """A worker can train.

    Attributes:
        index: of its device.
        about: what the journal's ``host`` event says of it: ``slots``, ``why``, ``rates``, ``device``, ``node``.
        references: scores that trials are compared with, as the ``baselines`` event has them; empty where none.
    """

    index: int
    about: Mapping[str, Any]
    references: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class WorkerUnusable:
    """A device cannot train: its worker could not open a session, or died again and again before it was ready.

    Attributes:
        what: names the device, without the cause.
        error: the cause; a ``UserError`` if the user can mend it.
    """

    what: str
    error: BaseException


@dataclass(frozen=True)
class WorkerDoing:
    """Long work of a worker, for display only.

    Attributes:
        index: of its device.
        what: such as ``Computing features of 893 cases: 3 of 14``; empty when it trains or waits for trials.
    """

    index: int
    what: str


Event = Reported | TrialLost | WorkerReady | WorkerUnusable | WorkerDoing


class Backend(ABC):
    """Trains trials on workers, one for each device. Used from one thread, but for :meth:`start`.

    Life cycle: ``start`` once, ``open`` and ``close`` for each run of the tuner's loop, ``stop`` at the end. After a
    :class:`BackendError` the tuner calls ``close``, ``stop``, ``start`` and ``open`` again. A worker that dies is
    replaced by the backend itself. A watchdog for workers that hang belongs in :meth:`poll`: it ends the worker and
    returns ``TrialLost`` for each of its trials, as for one that died.
    """

    title: ClassVar[str]
    """Name in messages."""

    @abstractmethod
    def start(self, space: SearchSpace) -> None:
        """Connect to what runs the workers, and start processes that take long; may take seconds.

        Args:
            space: what will be searched.

        Raises:
            StudyError: that is not possible.
        """

    @abstractmethod
    def stop(self) -> None:
        """Disconnect."""

    @abstractmethod
    def open(self, folder: Path, space: SearchSpace) -> None:
        """Begin to open workers for a study.

        Args:
            folder: of the study.
            space: what is searched.

        Raises:
            BackendError: the backend failed as a whole.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers; trials on them are dropped. Raises nothing."""

    @property
    @abstractmethod
    def devices(self) -> int:
        """How many devices there are, ready or not."""

    @abstractmethod
    def has_room(self, alone: bool = False) -> bool:
        """Whether a ready worker takes one more trial, or one that must train ``alone``."""

    @abstractmethod
    def submit(self, assignment: Assignment, alone: bool = False) -> None:
        """Train a trial to its next report, from its newest checkpoint; only while :meth:`has_room`.

        Args:
            assignment: the trial.
            alone: no other trial may share the worker meanwhile.

        Raises:
            BackendError: the backend failed as a whole.
        """

    @abstractmethod
    def advance(self, number: int) -> None:
        """Train a trial that reported to its next report, on the worker it is on.

        Raises:
            BackendError: the backend failed as a whole.
        """

    @abstractmethod
    def release(self, number: int) -> None:
        """Let a trial that reported leave its worker: it ended or was paused."""

    @abstractmethod
    def poll(self, seconds: float) -> list[Event]:
        """Return what happened since the last call; wait at most ``seconds`` for something to happen.

        Raises:
            BackendError: the backend failed as a whole.
        """


class Startup:
    """Context in which a backend is started in a thread, while the data are prepared; stopped at exit.

    Who leaves the context waits for no start, so that an error is told at once: the thread then stops the backend when
    it has started, unless the process ends before.

    Args:
        make: imports and returns the backend, not started.
    """

    def __init__(self, make: Callable[[], Backend]) -> None:
        self._make = make
        self._started: Future[Backend] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._abandoned = False

    def begin(self, space: SearchSpace) -> None:
        """Start the backend in the background for a search of ``space``.

        Its import is waited for: beside the imports of the data's preparation it would take twice as long.
        """
        self._started = Future()
        try:
            backend = self._make()
        except BaseException as error:
            self._started.set_exception(error)
            return
        self._thread = threading.Thread(target=self._run, args=(self._started, backend, space), daemon=True)
        self._thread.start()

    def _run(self, started: Future[Backend], backend: Backend, space: SearchSpace) -> None:
        """Start the backend and stay until it is stopped: what a thread started may die with it."""
        try:
            backend.start(space)
        except BaseException as error:
            started.set_exception(error)
            return
        started.set_result(backend)
        self._over.wait()
        if self._abandoned:
            with contextlib.suppress(Exception):
                backend.stop()

    @property
    def done(self) -> bool:
        """Whether :meth:`result` returns without waiting."""
        return self._started is not None and self._started.done()

    def result(self) -> Backend:
        """Wait for the backend and return it.

        Raises:
            StudyError: it could not be started, or :meth:`begin` was not called.
        """
        if self._started is None:
            raise StudyError("the backend was not started.")
        return self._started.result()

    def __enter__(self) -> Startup:
        return self

    def __exit__(self, *error: object) -> None:
        if self._started is None or self._thread is None:
            return
        self._abandoned = not self._started.done()
        if not self._abandoned and self._started.exception() is None:
            self._started.result().stop()
        self._over.set()
        if not self._abandoned:
            self._thread.join()
