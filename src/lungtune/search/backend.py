"""Interface of backends, which train trials; the tuner and the controller depend on nothing else of them.

Implementations are the members of ``search/backends``.
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

from lungtune.core.scheduler import Decision
from lungtune.core.space import SearchSpace
from lungtune.errors import LungtuneError, StudyError
from lungtune.search.controller import Assignment
from lungtune.search.sampler import Suggestion


class BackendError(LungtuneError):
    """A backend failed as a whole, all workers included; it may be stopped and started again."""


@dataclass(frozen=True)
class Reported:
    """A trial reached its next report, or failed; it waits for ``advance`` or ``release``.

    Attributes:
        number: of the trial.
        outcome: see ``TrialController.report``.
        decision: of the backend's own scheduler; None where the controller decides.
    """

    number: int
    outcome: Mapping[str, Any]
    decision: Decision | None = None


@dataclass(frozen=True)
class TrialResumed:
    """The backend's own scheduler resumed a paused trial."""

    number: int


@dataclass(frozen=True)
class TrialEnded:
    """The backend's own scheduler ended a trial that was paused, or had not begun."""

    number: int


@dataclass(frozen=True)
class TrialPerturbed:
    """The backend's own scheduler replaced a trial by a copy of another one with changed parameters.

    Attributes:
        number: of the trial.
        donor: number of the trial whose newest checkpoint is copied.
        params: every parameter from now on.
    """

    number: int
    donor: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class TrialLost:
    """A trial's worker died, or was killed because it hung; the trial is on no worker."""

    number: int
    why: str


@dataclass(frozen=True)
class WorkerReady:
    """A worker is ready to train.

    Attributes:
        index: of its device.
        about: content of the journal's ``host`` event: ``slots``, ``why``, ``rates``, ``device``, ``node``.
        references: baseline scores, as in the ``baselines`` event; may be empty.
    """

    index: int
    about: Mapping[str, Any]
    references: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class WorkerUnusable:
    """A device cannot train: its worker could not open a session, or died repeatedly.

    Attributes:
        what: names the device, without the cause.
        error: the cause; a ``UserError`` if the user can correct it.
        index: of the device.
        others: number of devices that train, or are still opened.
        again: seconds until this one is tried again.
    """

    what: str
    error: BaseException
    index: int = 0
    others: int = 0
    again: float = 0.0


@dataclass(frozen=True)
class WorkerDoing:
    """Long work of a worker, for display only.

    Attributes:
        index: of its device.
        what: such as ``Computing features of 893 cases: 3 of 14``; empty while it trains or is idle.
    """

    index: int
    what: str


Event = Reported | TrialLost | TrialResumed | TrialEnded | TrialPerturbed | WorkerReady | WorkerUnusable | WorkerDoing


class Backend(ABC):
    """Trains trials on workers, one per device. Not thread-safe, except :meth:`start`.

    Life cycle: ``start`` once, ``open`` and ``close`` for each run of the tuner's loop, ``stop`` at the end. After a
    :class:`BackendError` the tuner calls ``close``, ``stop``, ``start`` and ``open`` again. The backend replaces
    workers that die. :meth:`poll` also kills workers that hang and returns ``TrialLost`` for each of their trials.
    """

    title: ClassVar[str]
    """Name in messages."""

    takes_all: bool = False
    """True if its own scheduler decides when each trial trains: trials are submitted at once, whatever the room."""

    suggest: Callable[..., Suggestion] | None = None
    """See ``sampler.suggest``; None where the search's own sampler suggests. Known after :meth:`start`."""

    max_workers: int | None = None
    """Largest number of workers; None: one a device. Set before :meth:`start`."""

    @abstractmethod
    def start(self, space: SearchSpace) -> None:
        """Connect to the compute resources and start slow processes; may take seconds.

        Args:
            space: to search.

        Raises:
            StudyError: it cannot be started.
        """

    @abstractmethod
    def stop(self) -> None:
        """Disconnect."""

    @abstractmethod
    def open(self, folder: Path, space: SearchSpace) -> None:
        """Begin to open workers for a study; does not wait for them.

        Args:
            folder: of the study.
            space: of the study.

        Raises:
            BackendError: the backend failed as a whole.
        """

    @abstractmethod
    def close(self) -> None:
        """Kill all workers and drop their trials. Raises nothing."""

    @property
    @abstractmethod
    def devices(self) -> int:
        """Number of devices, ready or not."""

    @abstractmethod
    def has_room(self, alone: bool = False) -> bool:
        """True if a ready worker has room for one more trial, or for one that must train ``alone``."""

    @abstractmethod
    def submit(self, assignment: Assignment, alone: bool = False) -> None:
        """Train a trial from its newest checkpoint to its next report. Requires :meth:`has_room`.

        Args:
            assignment: the trial.
            alone: True if no other trial may share the worker.

        Raises:
            BackendError: the backend failed as a whole.
        """

    @abstractmethod
    def advance(self, number: int) -> None:
        """Train a trial that reported to its next report, on the same worker.

        Raises:
            BackendError: the backend failed as a whole.
        """

    def reassign(self, assignment: Assignment) -> None:
        """Answer ``TrialResumed`` or ``TrialPerturbed``: what is to be trained of the trial from now on."""
        raise NotImplementedError(f"{self.title} has no scheduler of its own.")

    @abstractmethod
    def release(self, number: int, ended: bool) -> None:
        """Remove a trial that reported from its worker: it ended or was paused."""

    @abstractmethod
    def poll(self, seconds: float) -> list[Event]:
        """Return the events since the last call; wait at most ``seconds`` for the first.

        Raises:
            BackendError: the backend failed as a whole.
        """


class Startup:
    """Context manager that starts a backend in a thread while the data are prepared, and stops it at exit.

    Exit does not wait for a pending start, so that errors are reported at once; the thread then stops the backend as
    soon as it has started, unless the process ends first.

    Args:
        make: imports and returns the backend for a search of a space, not started.
    """

    def __init__(self, make: Callable[[SearchSpace], Backend]) -> None:
        self._make = make
        self._started: Future[Backend] | None = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._abandoned = False

    def begin(self, space: SearchSpace) -> None:
        """Start the backend in the background for a search of ``space``.

        Blocks during its import, which takes twice as long in parallel with the imports of the data preparation.
        """
        self._started = Future()
        try:
            backend = self._make(space)
        except Exception as error:
            self._started.set_exception(error)
            return
        self._thread = threading.Thread(target=self._run, args=(self._started, backend, space), daemon=True)
        self._thread.start()

    def _run(self, started: Future[Backend], backend: Backend, space: SearchSpace) -> None:
        """Start the backend and stay alive until it is stopped: its children may die with this thread."""
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
        """True if :meth:`result` returns without waiting."""
        return self._started is not None and self._started.done()

    def result(self) -> Backend:
        """Wait for the backend to start and return it.

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
