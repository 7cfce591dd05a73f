"""Backend on Ray: each training trial is a pending remote call; Ray raises from it if the host dies."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import ray

from lungtune.core.space import SearchSpace
from lungtune.search.backend import Backend, BackendError, Event, Reported, TrialLost
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.backends.ray_hosts.workers import ANSWER, Worker, WorkerPool
from lungtune.search.controller import Assignment

P = ParamSpec("P")
T = TypeVar("T")


def _raises_backend_error(method: Callable[P, T]) -> Callable[P, T]:
    """Convert Ray errors raised outside a worker's call to ``BackendError``."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise BackendError(str(error)) from error

    return wrapped


class RayHosts(Backend):
    """Backend with hosts on the Ray cluster at ``RAY_ADDRESS``, else on a local one.

    Args:
        host: class of the hosts; default :attr:`host`.
    """

    title = "Ray"
    host: type[PackHost] = PackHost

    def __init__(self, host: type[PackHost] | None = None) -> None:
        self._host = host or self.host
        self._pool: WorkerPool | None = None
        self._calls: dict[Any, tuple[Assignment, Worker]] = {}
        """Ray's object reference of each trial's next report."""
        self._reported: dict[int, tuple[Assignment, Worker]] = {}
        """Trials that await ``advance`` or ``release``, by number."""

    def start(self, space: SearchSpace) -> None:
        """See ``Backend.start``."""
        cluster.start()
        with contextlib.suppress(BackendError):  # a cluster that fails at once fails again in ``open``
            self._make_pool(space)

    def stop(self) -> None:
        """See ``Backend.stop``."""
        self.close()  # hosts that were started and never opened
        cluster.stop()

    @_raises_backend_error
    def _make_pool(self, space: SearchSpace) -> WorkerPool:
        self._pool = WorkerPool(space, self._host, most=self.max_workers)
        return self._pool

    @_raises_backend_error
    def open(self, folder: Path, space: SearchSpace) -> None:
        """See ``Backend.open``."""
        (self._pool or self._make_pool(space)).open(folder)

    def close(self) -> None:
        """See ``Backend.close``."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None
        self._calls, self._reported = {}, {}

    @property
    def pool(self) -> WorkerPool:
        """The workers. Raises ``BackendError`` before :meth:`open`."""
        if self._pool is None:
            raise BackendError("the backend is not open.")
        return self._pool

    @property
    def devices(self) -> int:
        """See ``Backend.devices``."""
        return self.pool.count

    def has_room(self, alone: bool = False) -> bool:
        """See ``Backend.has_room``."""
        return self.pool.has_room(alone)

    @_raises_backend_error
    def submit(self, assignment: Assignment, alone: bool = False) -> None:
        """See ``Backend.submit``."""
        worker = self.pool.place(assignment.number, alone)
        self._calls[worker.train(assignment, fresh=True)] = assignment, worker

    @_raises_backend_error
    def advance(self, number: int) -> None:
        """See ``Backend.advance``."""
        assignment, worker = self._reported.pop(number)
        self._calls[worker.train(assignment, fresh=False)] = assignment, worker

    @_raises_backend_error
    def release(self, number: int, ended: bool) -> None:
        """See ``Backend.release``."""
        self._reported.pop(number, None)
        self.pool.release(number)

    @_raises_backend_error
    def poll(self, seconds: float) -> list[Event]:
        """See ``Backend.poll``."""
        events: list[Event] = self.pool.poll()
        for call in [call for call, (_, worker) in self._calls.items() if worker.gone]:
            assignment, worker = self._calls.pop(call)
            events.append(TrialLost(assignment.number, worker.gone))
        if self._calls:
            ready = ray.wait(list(self._calls), timeout=0.0 if events else seconds)[0]
            events += [self._event(call) for call in ready]
        elif not events:
            self._wait(seconds)
        return events

    def _wait(self, seconds: float) -> None:
        """Wait until a host is ready, at most ``seconds``."""
        opening = self.pool.opening
        if opening:
            ray.wait(opening, timeout=seconds)
        else:
            time.sleep(seconds)

    def _event(self, call: Any) -> Event:
        """Return ``Reported`` with a finished call's outcome, or ``TrialLost`` if its host died."""
        assignment, worker = self._calls.pop(call)
        try:
            outcome = ray.get(call, timeout=ANSWER)
        except ray.exceptions.RayError as error:
            why = " ".join(str(error).split())[:500]
            self.pool.replace(worker, why)
            return TrialLost(assignment.number, why)
        worker.device.reported()
        self._reported[assignment.number] = assignment, worker
        return Reported(assignment.number, outcome)
