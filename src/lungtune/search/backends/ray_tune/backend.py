"""The backend: Tune's controller runs in a thread; each report waits there for the decision of the tuner's loop."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback
from ray.tune.stopper import NoopStopper, Stopper

from lungtune.core import paths
from lungtune.core.scheduler import Decision
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.errors import StudyError
from lungtune.search import tune_schedulers
from lungtune.search.backend import (
    Backend,
    BackendError,
    Event,
    Reported,
    TrialLost,
    TrialPerturbed,
    TrialResumed,
)
from lungtune.search.backends.ray_hosts import cluster, local_ray
from lungtune.search.backends.ray_hosts.workers import Worker, WorkerPool
from lungtune.search.backends.ray_tune import inner
from lungtune.search.backends.ray_tune.bridge import Bridge, Loop, Submitted
from lungtune.search.backends.ray_tune.host import TuneHost
from lungtune.search.backends.ray_tune.trainable import ASSIGNED, subclass
from lungtune.search.controller import Assignment
from lungtune.search.sampler import Suggestion

for _name, _value in (
    ("TUNE_DISABLE_SIGINT_HANDLER", "1"),  # Ctrl-C is the search's
    ("RAY_AIR_NEW_OUTPUT", "0"),  # which prints whatever the verbosity
    ("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0"),
):
    os.environ.setdefault(_name, _value)

log = logging.getLogger(__name__)

HOST_CPUS = 0.9
"""Cores that Ray reserves for a host; the rest of a core is left to Tune's requests for trials."""

_CALM = 2.0
"""Seconds Tune has to end while the hosts live."""

_ENDING = 30.0
"""Seconds Tune has to end after that."""


class RayTune(Backend):
    """Trials are stock Tune trials inside hosts; the controller decides, or the scheduler of Tune the space names."""

    title = "Ray Tune"
    host: type[TuneHost] = TuneHost

    def __init__(self, host: type[TuneHost] | None = None) -> None:
        self._host = host or self.host
        self._pool: WorkerPool | None = None
        self._run: _Run | None = None
        self._bohb: inner.Bohb | None = None

    def start(self, space: SearchSpace) -> None:
        """See ``Backend.start``."""
        self.takes_all = tune_schedulers.decides(space)
        kind = tune_schedulers.kind(space)
        if kind is not None and kind.suggests:
            self.suggest = self._suggest
        cluster.start()
        with contextlib.suppress(BackendError, ray.exceptions.RayError, ConnectionError, RuntimeError):
            # a cluster that fails at once fails again in ``open``
            self._make_pool(space)

    def _suggest(self, space: SearchSpace, history: History, seed: int, number: int) -> Suggestion:
        """See ``sampler.suggest``."""
        assert self._bohb is not None  # since ``open``
        return self._bohb.suggest(space, history, seed, number)

    def stop(self) -> None:
        """See ``Backend.stop``."""
        self.close()  # hosts that were started and never opened
        cluster.stop()

    def _make_pool(self, space: SearchSpace) -> WorkerPool:
        waiting = 16 + (4 * space.trials if self.takes_all else 0)
        self._pool = WorkerPool(space, self._host, cpus=HOST_CPUS, waiting=waiting, most=self.max_workers)
        return self._pool

    def open(self, folder: Path, space: SearchSpace) -> None:
        """See ``Backend.open``."""
        self.takes_all = tune_schedulers.decides(space)
        try:
            pool = self._pool or self._make_pool(space)
            pool.open(folder)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise BackendError(str(error)) from error
        seed = Study(folder).history().study["seed"]
        if self.suggest is not None and self._bohb is None:
            self._bohb = inner.Bohb(space, seed)
        model = self._bohb.searcher if self._bohb else None
        self._run = _Run(folder, space, seed, pool, self.takes_all, model)

    def close(self) -> None:
        """See ``Backend.close``."""
        if self._run is not None:
            self._run.close()
        if self._pool is not None:
            self._pool.close()
        self._pool = self._run = None

    @property
    def _opened(self) -> _Run:
        if self._run is None:
            raise BackendError("the backend is not open.")
        return self._run

    @property
    def devices(self) -> int:
        """See ``Backend.devices``."""
        return self._opened.pool.count

    def has_room(self, alone: bool = False) -> bool:
        """See ``Backend.has_room``."""
        pool = self._opened.pool
        return any(worker.slots for worker in pool.workers) if self.takes_all else pool.has_room(alone)

    def submit(self, assignment: Assignment, alone: bool = False) -> None:
        """See ``Backend.submit``."""
        self._opened.submit(assignment, alone)

    def advance(self, number: int) -> None:
        """See ``Backend.advance``."""
        self._opened.answer(number, Decision.CONTINUE)

    def reassign(self, assignment: Assignment) -> None:
        """See ``Backend.reassign``."""
        self._opened.assigned[assignment.number] = assigned(assignment)
        self._opened.answer(assignment.number, Decision.CONTINUE)

    def release(self, number: int, ended: bool) -> None:
        """See ``Backend.release``."""
        self._opened.release(number)
        self._opened.answer(number, Decision.STOP if ended else Decision.PAUSE)

    def poll(self, seconds: float) -> list[Event]:
        """See ``Backend.poll``."""
        try:
            return self._opened.poll(seconds)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            raise BackendError(str(error)) from error


class _Closing(Stopper):
    """Stops Tune when the backend closes."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __reduce__(self) -> Any:
        """See ``Submitted.__reduce__``."""
        return NoopStopper, ()

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._loop.closing


class _Files(tune.Callback):
    """Closes the files of paused trials, which Tune's loggers keep open; they open them again with the next report."""

    def __init__(self) -> None:
        self.loggers = [CSVLoggerCallback(), JsonLoggerCallback(), TBXLoggerCallback()]

    def __reduce__(self) -> Any:
        """See ``Submitted.__reduce__``."""
        return tune.Callback, ()

    def _close(self, trial: Any) -> None:
        for logger in self.loggers:
            logger.log_trial_end(trial)

    def on_trial_save(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._close(trial)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        for trial in trials:
            self._close(trial)


class _Run:
    """Tune's controller in its thread, from the first submitted trial to :meth:`close`. A ``bridge.Loop``."""

    def __init__(
        self, folder: Path, space: SearchSpace, seed: int, pool: WorkerPool, takes_all: bool, model: Any
    ) -> None:
        self.folder, self.space, self.pool = folder, space, pool
        self._takes_all = takes_all
        self.closing = False
        self.assigned: dict[int, dict[str, Any]] = {}
        self._events: queue.Queue[Event | BaseException] = queue.Queue()
        self._answers: dict[int, queue.SimpleQueue[Decision]] = {}
        self._new: deque[Mapping[str, Any]] = deque()
        self._resumed: deque[Mapping[str, Any]] = deque()
        self._submitted = threading.Condition()
        self._workers: dict[int, Worker] = {}
        self._bridge = Bridge(self, inner.scheduler(space, seed), self._place)
        self._model = model
        self._thread: threading.Thread | None = None

    # The tuner's loop

    def submit(self, assignment: Assignment, alone: bool) -> None:
        """Pass a trial to Tune: a new one, or one that it paused."""
        number = assignment.number
        known = self.assigned[number] = assigned(assignment)
        if not self._takes_all:
            self._workers[number] = self.pool.place(number, alone)
        with self._submitted:
            if self._bridge.has(number):
                self._resumed.append(known)
            else:
                self._new.append({**assignment.params, ASSIGNED: known})
            self._submitted.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._fit, daemon=True)
            self._thread.start()

    def release(self, number: int) -> None:
        """Free a trial's place."""
        self.pool.release(number)
        if self._takes_all:
            self._workers.pop(number, None)

    def answer(self, number: int, decision: Decision) -> None:
        """Answer a trial's report."""
        self._answers.setdefault(number, queue.SimpleQueue()).put(decision)

    def poll(self, seconds: float) -> list[Event]:
        """Return events of hosts and of Tune; raise what Tune's thread raised."""
        events: list[Event] = self.pool.poll()
        with contextlib.suppress(queue.Empty):
            taken = self._events.get(timeout=0.0 if events else seconds)
            while True:
                if isinstance(taken, BaseException):
                    raise BackendError(str(taken) or type(taken).__name__) from taken
                if isinstance(taken, Reported) and taken.number in self._workers:
                    self._workers[taken.number].device.reported()
                if isinstance(taken, TrialLost):
                    self._lost(taken.number, taken.why)
                events.append(taken)
                taken = self._events.get_nowait()
        return events

    def _lost(self, number: int, why: str) -> None:
        """Replace the host of a lost trial if it is dead, else free the trial's place on it."""
        worker = self._workers.get(number)
        if worker is None or worker not in self.pool.workers:
            return
        if self.pool.answers(worker):
            self.pool.release(number)
        else:
            self.pool.replace(worker, why, [other for other, on in self._workers.items() if on is worker])

    def close(self) -> None:
        """End Tune; trials keep their checkpoints."""
        self.closing = True
        for number in list(self._answers):
            self.answer(number, Decision.STOP)
        with self._submitted:
            self._submitted.notify_all()
        if self._thread is not None:
            self._thread.join(_CALM)
            self.pool.close()  # a trial in training answers Tune's request to stop after its report
            self._thread.join(_CALM if local_ray.dead() else _ENDING)  # it ends when Ray is left

    # Tune's thread

    def _fit(self) -> None:
        goal, files = self.space.objective, _Files()
        try:
            tune.Tuner(
                subclass(self.space.name, self.folder, paths.own_folders()),
                tune_config=tune.TuneConfig(
                    num_samples=-1,
                    search_alg=Submitted(self, goal.metric, goal.mode, self._model),
                    scheduler=self._bridge,
                    metric=goal.metric,
                    mode=goal.mode,
                    trial_name_creator=_name_of,
                    trial_dirname_creator=_name_of,
                ),
                run_config=tune.RunConfig(
                    name=time.strftime("tune-%Y%m%d-%H%M%S"),
                    storage_path=str((self.folder / "tune").resolve()),
                    verbose=0,
                    stop=_Closing(self),
                    callbacks=[*files.loggers, files],
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
                ),
            ).fit()
            if not self.closing:
                raise StudyError("Ray Tune ended by itself.")
        except BaseException as error:
            log.debug("Ray Tune ended: %s", error)
            if not self.closing:
                self._events.put(error)

    def tell(self, event: Event) -> None:
        """See ``bridge.Loop``."""
        self._events.put(event)

    def ask(self, event: Reported | TrialResumed | TrialPerturbed) -> Decision:
        """See ``bridge.Loop``."""
        answers = self._answers.setdefault(event.number, queue.SimpleQueue())
        self._events.put(event)
        while not self.closing:
            with contextlib.suppress(queue.Empty):
                return answers.get(timeout=0.5)
        return Decision.STOP

    def new_trial(self) -> Mapping[str, Any] | None:
        """See ``bridge.Loop``; waits a moment for the loop, which answers a report before it submits."""
        seconds = 0.02 if self._bridge.busy else 0.5  # without trials Tune sleeps a second between two questions
        with self._submitted:
            self._submitted.wait_for(lambda: bool(self._new or self._resumed or self.closing), timeout=seconds)
            return self._new.popleft() if self._new else None

    def resumed_trial(self) -> Mapping[str, Any] | None:
        """See ``bridge.Loop``; a trial whose pause is not complete waits."""
        with self._submitted:
            for known in self._resumed:
                if self._bridge.paused(known["number"]):
                    self._resumed.remove(known)
                    return known
        return None

    def _place(self, named: Mapping[str, Any]) -> Any:
        """Return the host of a trial: the one with its place, else the one with the fewest trials."""
        number = named["config"][ASSIGNED]["number"]
        if self._takes_all:
            ready = [worker for worker in self.pool.workers if worker.slots] or self.pool.workers
            counts = {id(worker): 0 for worker in ready}
            for other, worker in list(self._workers.items()):
                if other != number and id(worker) in counts:
                    counts[id(worker)] += 1
            self._workers[number] = min(
                ready, key=lambda worker: (worker.device.strikes, counts[id(worker)] / max(1, worker.slots))
            )
        return self._workers[number].handle


def assigned(assignment: Assignment) -> dict[str, Any]:
    """Return the entry ``ASSIGNED`` of a trial's config."""
    return {name: getattr(assignment, name) for name in ("number", "seed", "known", "segment")}


def _name_of(trial: Any) -> str:
    """Return the name of a Tune trial and its folder; a trial whose host died has several."""
    return f"{trial.config[ASSIGNED]['number']:04d}-{trial.trial_id}"
