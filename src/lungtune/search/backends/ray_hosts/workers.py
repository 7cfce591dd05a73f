"""Pool of the host processes of a search, one per device: creation, placement of trials, replacement."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from lungtune.core import paths
from lungtune.core.space import SearchSpace
from lungtune.search.backend import Event, WorkerDoing, WorkerReady, WorkerUnusable
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.controller import Assignment

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Largest number of consecutive deaths of a host before it is ready."""

ASK_EVERY = 1.0
"""Seconds between two ``doing`` requests to a host."""


@dataclass(eq=False)
class Worker:
    """Driver-side handle of a device's host; one per process.

    Attributes:
        device: index.
        deaths: number of predecessors that died since one was ready.
        handle: Ray's handle of the actor.
        opening: Ray's object reference of ``PackHost.ready``; None after it was read.
        slots: trials at a time; 0 until it is ready.
        trials: trial number -> True if the trial must train alone.
        doing: last result of ``PackHost.doing``.
        asked: Ray's object reference of a pending ``doing`` request; None if none is pending.
        asked_at: time of the last request, ``time.monotonic()``.
    """

    device: int
    deaths: int
    handle: Any
    opening: Any
    slots: int = 0
    trials: dict[int, bool] = field(default_factory=dict)
    doing: str = ""
    asked: Any = None
    asked_at: float = field(default_factory=time.monotonic)

    def has_room(self, alone: bool) -> bool:
        """True if there is room for one more trial, or for one that must train alone."""
        return len(self.trials) < (min(1, self.slots) if alone else self.slots) and not any(self.trials.values())

    def train(self, assignment: Assignment, fresh: bool) -> Any:
        """Call ``PackHost.train``; return Ray's object reference of the trial's next report."""
        fields = {name: getattr(assignment, name) for name in ("number", "seed", "known", "segment")}
        return self.handle.train.remote({**fields, "params": dict(assignment.params)}, fresh)

    def news(self) -> WorkerDoing | None:
        """Request ``PackHost.doing`` every ``ASK_EVERY`` seconds; return the result if it changed. Does not wait."""
        if self.asked is None:
            if time.monotonic() - self.asked_at > ASK_EVERY:
                self.asked, self.asked_at = self.handle.doing.remote(), time.monotonic()
            return None
        if not ray.wait([self.asked], timeout=0)[0]:
            return None
        promise, self.asked = self.asked, None
        try:
            doing = ray.get(promise)
        except ray.exceptions.RayError:  # it died; its other references raise too
            return None
        if doing == self.doing:
            return None
        self.doing = doing
        return WorkerDoing(self.device, doing)


class WorkerPool:
    """Places trials on devices. Not thread-safe.

    Hosts start with the pool and import their libraries before :meth:`open`.

    Args:
        space: of the study.
        host: class of the hosts.
        cpus: cores that Ray reserves for a host.
        slots: trials at a time on a host; 0: as the study says, or as measured there.
        waiting: calls that may wait in a host beside those of its slots.
        alone: hosts may be on another machine than this process, and end with Ray's job only.
        most: largest number of hosts; None: one a device.
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
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // self.count)
        driver = None if alone or os.environ.get("RAY_ADDRESS") else os.getpid()
        trials = max(slots, space.slots, space.max_slots)
        # One thread per pending call of a trial, and spare ones for ``leave``, ``doing`` and repeated ``train`` calls.
        self._class = ray.remote(host).options(
            num_cpus=cpus, num_gpus=1 if on_gpus else 0, max_concurrency=2 * trials + waiting, max_restarts=0
        )
        self._arguments = (threads, driver, [str(each) for each in paths.own_folders()], slots)
        # On the cores of one machine the first host starts alone: concurrent imports slow each other down, and the
        # first trial starts sooner.
        self._to_make = list(range(self.count))
        self.workers: list[Worker] = []
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

    def _make(self, device: int, deaths: int = 0) -> Worker:
        handle: Any = self._class.remote(*self._arguments)
        if self._folder:
            handle.open.remote(self._folder)
        return Worker(device, deaths, handle, handle.ready.remote())

    @property
    def opening(self) -> list[Any]:
        """Ray's object references of the hosts that are not ready."""
        return [worker.opening for worker in self.workers if worker.opening is not None]

    def has_room(self, alone: bool) -> bool:
        """True if a ready host has room for one more trial, or for one that must train alone."""
        return any(worker.has_room(alone) for worker in self.workers)

    def place(self, number: int, alone: bool) -> Worker:
        """Reserve a slot on the host with the largest share of free slots. Requires :meth:`has_room`."""
        free = [worker for worker in self.workers if worker.has_room(alone)]
        chosen = min(free, key=lambda worker: len(worker.trials) / worker.slots)
        chosen.trials[number] = alone
        return chosen

    def release(self, number: int) -> None:
        """Remove a trial from its host."""
        for worker in self.workers:
            if worker.trials.pop(number, None) is not None:
                worker.handle.leave.remote(number)

    def replace(self, worker: Worker) -> None:
        """Start a new host in place of a dead one; no effect if it was replaced already."""
        if worker in self.workers:
            with contextlib.suppress(Exception):
                ray.kill(worker.handle)
            log.warning("the process of device %d died; a new one takes its place", worker.device)
            self.workers[self.workers.index(worker)] = self._make(worker.device, worker.deaths)

    def poll(self) -> list[Event]:
        """Return events of hosts: ready, unusable, or a changed occupation. Does not wait."""
        events: list[Event] = [news for worker in self.workers if (news := worker.news()) is not None]
        for worker in tuple(self.workers):
            if worker.opening is None or not ray.wait([worker.opening], timeout=0)[0]:
                continue
            opening, worker.opening = worker.opening, None
            try:
                about = ray.get(opening)
            except ray.exceptions.RayTaskError as error:  # raised while it opened the backbone or the images
                events.append(WorkerUnusable(f"device {worker.device} cannot train", error.cause or error))
            except ray.exceptions.RayError as error:
                worker.deaths += 1
                if worker.deaths > MAX_DEATHS:
                    what = f"the process of device {worker.device} dies before it can train"
                    events.append(WorkerUnusable(what, error))
                else:
                    self.replace(worker)
            else:
                worker.deaths, worker.slots = 0, about["slots"]
                references = about.pop("references", {})
                events.append(WorkerReady(worker.device, about, references))
                self._make_next(len(self._to_make))
        return events

    def close(self) -> None:
        """Kill all hosts."""
        for worker in self.workers:
            with contextlib.suppress(Exception):
                ray.kill(worker.handle)
