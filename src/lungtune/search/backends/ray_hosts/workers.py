"""Pool of the host processes of a search, one per device: creation, placement of trials, watch, replacement."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from lungtune.core import paths
from lungtune.core.space import SearchSpace
from lungtune.errors import LungtuneError, UserError
from lungtune.search.backend import BackendError, Event, WorkerDoing, WorkerReady, WorkerUnusable
from lungtune.search.backends.ray_hosts import cluster, processes, watch
from lungtune.search.backends.ray_hosts.devices import Device
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.backends.ray_hosts.watch import Watch
from lungtune.search.controller import Assignment

ASK_EVERY = 1.0
"""Seconds between two ``pulse`` requests to a host."""

UNBORN = 300.0
"""Seconds that Ray has to start a process of a host; a local Ray that does not is started again."""

PROBE = 60.0
"""Seconds between two questions to the head of a cluster while no host answers."""

WATCH = "watch"
"""Ray's concurrency group of calls that must be answered however many others wait."""

ALIVE = 10.0
"""Seconds for a host's answer after one of its trials was lost."""

ANSWER = 30.0
"""Seconds to read a result that Ray has announced."""


@dataclass(eq=False)
class Worker:
    """Driver-side handle of a device's host; one per process.

    Attributes:
        device: the device.
        handle: Ray's handle of the actor.
        opening: Ray's object reference of ``PackHost.ready``; None after it was read.
        who: Ray's object reference of ``PackHost.who``; None after it was read.
        identity: of the process; None until it is known.
        slots: trials at a time; 0 until it is ready.
        trials: trial number -> True if the trial must train alone.
        occupation: what its last pulse says it does.
        doing: what was last told about it.
        asked: Ray's object reference of a pending ``pulse`` request; None if none is pending.
        asked_at: time of the last request, ``time.monotonic()``.
        watch: over its signs of life.
        gone: why it was replaced; empty while it lives.
    """

    device: Device
    handle: Any
    opening: Any
    who: Any = None
    identity: processes.Identity | None = None
    slots: int = 0
    trials: dict[int, bool] = field(default_factory=dict)
    occupation: str = ""
    doing: str = ""
    asked: Any = None
    asked_at: float = field(default_factory=time.monotonic)
    watch: Watch = field(default_factory=Watch)
    gone: str = ""

    def has_room(self, alone: bool) -> bool:
        """True if there is room for one more trial, or for one that must train alone."""
        return len(self.trials) < (min(1, self.slots) if alone else self.slots) and not any(self.trials.values())

    def train(self, assignment: Assignment, fresh: bool) -> Any:
        """Call ``PackHost.train``; return Ray's object reference of the trial's next report."""
        fields = {name: getattr(assignment, name) for name in ("number", "seed", "known", "segment")}
        return self.handle.train.remote({**fields, "params": dict(assignment.params)}, fresh)

    def news(self) -> WorkerDoing | None:
        """Take signs of life in, every ``ASK_EVERY`` seconds; return what changed in the occupation. Does not wait."""
        self.watch.look()
        waited = time.monotonic() - self.asked_at
        if self.identity is None and self.who is not None and ray.wait([self.who], timeout=0)[0]:
            self.who, self.identity = None, _read(self.who)
            self.watch.local = self.identity is not None and processes.here(self.identity) is not None
        if self.asked is None and waited > ASK_EVERY:
            self.asked = self.handle.pulse.options(concurrency_group=WATCH).remote()
            self.asked_at = time.monotonic()
        elif self.asked is not None and ray.wait([self.asked], timeout=0)[0]:
            pulse, self.asked = _read(self.asked), None
            if pulse is not None:  # else it died; its other references raise too
                self.occupation = pulse.doing
                self.watch.answered(pulse)
        elif self.watch.local and waited > ASK_EVERY:
            pid = processes.here(self.identity) if self.identity else None
            if pid is not None:
                self.watch.measured(*processes.used(pid))
        doing = self.watch.notice() or self.occupation
        if doing == self.doing:
            return None
        self.doing = doing
        return WorkerDoing(self.device.index, doing)


def _read(reference: Any) -> Any:
    """Return a result that is ready; None if its host died."""
    try:
        return ray.get(reference, timeout=ANSWER)
    except ray.exceptions.RayError:
        return None


class WorkerPool:
    """Places trials on devices and watches their hosts. Not thread-safe.

    Hosts start with the pool and import their libraries before :meth:`open`. A device whose hosts cannot open the
    study, or die again and again, rests (``devices.Device``) while the others train.

    Args:
        space: of the study.
        host: class of the hosts.
        cpus: cores that Ray reserves for a host, fewer where there are more GPUs than cores.
        slots: trials at a time on a host; 0: as the study says, or as measured there.
        waiting: calls that may wait in a host beside those of its slots.
        alone: hosts may be on another machine than this process, and end with Ray's job only.
        most: largest number of hosts; None: one a device.

    Raises:
        BackendError: Ray does not answer.
    """

    def __init__(
        self,
        space: SearchSpace,
        host: type[PackHost],
        cpus: float = 1.0,
        slots: int = 0,
        waiting: int = 8,
        alone: bool = False,
        most: int | None = None,
    ) -> None:
        self._folder = ""
        self.count, on_gpus = cluster.devices(most)
        cores = cluster.resources_now().get("CPU", 1.0)
        self._joined = alone or bool(os.environ.get("RAY_ADDRESS"))
        driver = None if self._joined else os.getpid()
        trials = max(slots, space.slots, space.max_slots)
        # One thread per pending call of a trial, and spare ones for ``leave`` and repeated ``train`` calls.
        remote: Any = ray.remote
        self._class = remote(concurrency_groups={WATCH: 2})(host).options(
            num_cpus=min(cpus, int(1000 * cores / self.count) / 1000),
            num_gpus=1 if on_gpus else 0,
            max_concurrency=2 * trials + waiting,
            max_restarts=0,
        )
        threads = max(1, int(cores) // self.count)
        self._arguments = (threads, driver, [str(each) for each in paths.own_folders()], slots)
        self._to_make = [Device(index) for index in range(self.count)]
        self._resting: list[Device] = []
        self._events: list[Event] = []
        self._probed = time.monotonic()
        self.workers: list[Worker] = []
        # On the cores of one machine the first host starts alone: concurrent imports slow each other down, and the
        # first trial starts sooner.
        self._make_next(self.count if on_gpus or driver is None else 1)

    def open(self, folder: Path) -> None:
        """Open a study on every host, present and future.

        Args:
            folder: of the study.
        """
        self._folder = str(folder.resolve())
        for worker in self.workers:
            worker.handle.open.remote(self._folder)

    def _make_next(self, most: int) -> None:
        chosen, self._to_make = self._to_make[:most], self._to_make[most:]
        self.workers += [self._make(device) for device in chosen]

    def _make(self, device: Device) -> Worker:
        handle: Any = self._class.remote(*self._arguments)
        if self._folder:
            handle.open.remote(self._folder)
        who = handle.who.options(concurrency_group=WATCH).remote()
        return Worker(device, handle, handle.ready.remote(), who)

    @property
    def opening(self) -> list[Any]:
        """Ray's object references of the hosts that are not ready."""
        return [worker.opening for worker in self.workers if worker.opening is not None]

    def has_room(self, alone: bool) -> bool:
        """True if a ready host has room for one more trial, or for one that must train alone."""
        return any(worker.has_room(alone) for worker in self.workers)

    def place(self, number: int, alone: bool) -> Worker:
        """Reserve a slot; requires :meth:`has_room`.

        The host is on a device whose hosts have not died of late, with the largest share of free slots.
        """
        free = [worker for worker in self.workers if worker.has_room(alone)]
        chosen = min(free, key=lambda worker: (worker.device.strikes, len(worker.trials) / worker.slots))
        chosen.trials[number] = alone
        return chosen

    def release(self, number: int) -> None:
        """Remove a trial from its host."""
        for worker in self.workers:
            if worker.trials.pop(number, None) is not None:
                worker.handle.leave.remote(number)

    def answers(self, worker: Worker) -> bool:
        """True if a host answers within ``ALIVE`` seconds."""
        try:
            ray.get(worker.handle.who.options(concurrency_group=WATCH).remote(), timeout=ALIVE)
        except ray.exceptions.RayError:
            return False
        return True

    def replace(self, worker: Worker, why: str, trials: Collection[int] | None = None) -> None:
        """Kill a host and start a new one in its place, or let its device rest; no effect if that was done already.

        Args:
            worker: that died, or must.
            why: for the user.
            trials: numbers of those on it; by default those that were placed.
        """
        if worker not in self.workers:
            return
        worker.gone = why
        _kill([worker])
        device = worker.device
        ready = worker.slots > 0
        if not (device.died(worker.trials if trials is None else trials) if ready else device.not_opened()):
            self.workers[self.workers.index(worker)] = self._make(device)
            self._events.append(WorkerDoing(device.index, f"starts again ({why.partition('. ')[0]})"))
            return
        what = "dies again and again" if ready else "dies before it can train"
        self._rest(worker, f"the process of device {device.index} {what}", LungtuneError(why))

    def _rest(self, worker: Worker, what: str, error: BaseException) -> None:
        """Let a device rest; those that were not begun begin."""
        self.workers.remove(worker)
        again = worker.device.rest()
        self._resting.append(worker.device)
        begun = bool(self.workers)
        if begun or not isinstance(error, UserError):  # a mistake would be the same on the next one
            self._make_next(len(self._to_make))
        self._events.append(WorkerUnusable(what, error, worker.device.index, len(self.workers), again))

    def poll(self) -> list[Event]:
        """Return events of hosts: ready, unusable, a changed occupation; replace those that are stuck. Does not wait.

        Raises:
            BackendError: Ray has died, or does not answer.
        """
        cluster.check()
        for device in [device for device in self._resting if device.due]:
            self._resting.remove(device)
            self.workers.append(self._make(device))
        for worker in tuple(self.workers):
            news = worker.news()
            self._events += [news] if news is not None else []
        self._check_head()
        for worker in tuple(self.workers):
            why = worker.watch.verdict() or self._unborn(worker)
            if why:
                self.replace(worker, why)
            elif worker.opening is not None and ray.wait([worker.opening], timeout=0)[0]:
                self._opened(worker)
        events, self._events = self._events, []
        return events

    def _opened(self, worker: Worker) -> None:
        opening, worker.opening = worker.opening, None
        index = worker.device.index
        try:
            about = ray.get(opening, timeout=ANSWER)
        except ray.exceptions.RayTaskError as error:  # raised while it opened the backbone or the images
            _kill([worker])
            self._rest(worker, f"device {index} cannot train", error.cause or error)
        except ray.exceptions.RayError as error:
            self.replace(worker, " ".join(str(error).split())[:300])
        else:
            worker.device.ready()
            worker.slots, worker.watch.opened = about["slots"], True
            references = about.pop("references", {})
            self._events.append(WorkerReady(index, about, references))
            self._make_next(len(self._to_make))

    def _unborn(self, worker: Worker) -> str:
        """Return why a host that has no process yet must be replaced; on a cluster, its resources may be in use."""
        if worker.watch.born or self._joined or worker.watch.silent < UNBORN:
            return ""
        why = f"Ray started no process within {UNBORN:.0f} s"
        if not any(other.watch.born for other in self.workers):
            raise BackendError(why)
        return why

    def _check_head(self) -> None:
        """Where no host answers, ask the cluster's head, every ``PROBE`` seconds."""
        born = [worker for worker in self.workers if worker.watch.born]
        silent = min((worker.watch.silent for worker in born or self.workers), default=0.0)
        if not self._joined or silent < watch.SILENT or time.monotonic() - self._probed < PROBE:
            return
        self._probed = time.monotonic()
        if not cluster.answers():
            raise BackendError(f"no process on the cluster has answered for {silent:.0f} s, nor does its head")

    def close(self) -> None:
        """Kill all hosts."""
        _kill(self.workers)


def _kill(workers: Sequence[Worker]) -> None:
    """Kill hosts: by their id where they are on this machine, as Ray only asks a process to end, and by Ray."""
    for worker in workers:
        if worker.identity is not None:
            processes.kill(worker.identity)
    if not ray.is_initialized():  # ``ray.kill`` would start a new Ray
        return
    with contextlib.suppress(Exception):
        cluster.check()
        cluster.bounded(lambda: [ray.kill(worker.handle) for worker in workers], ANSWER)
