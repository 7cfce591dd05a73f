"""The hosts of a search: one for each device, made, filled and replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any

import ray

from lungtune.errors import UserError
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.controller import Assignment, TrialController

log = logging.getLogger(__name__)

SUSPECT = 2
"""A trial that lost its host so often without a report in between trains alone: it may be what kills them."""

MAX_DEATHS = 3
"""How often in a row a host may die before it is ready."""

SHARE = 0.25
"""Of a search's trials, at most this share trains at a time (but one on each device)."""


@dataclass(eq=False)
class Worker:
    """A device's host, as the driver sees it; a new one for each process."""

    device: int
    deaths: int
    handle: Any
    opening: Any
    """Ray's promise of what the host says when it is ready; None afterwards."""
    slots: int = 0
    trials: dict[int, bool] = field(default_factory=dict)
    """Number of each trial placed here: whether it must be alone."""

    def takes(self, alone: bool) -> bool:
        """Whether there is room for one more trial, or for one that must be alone."""
        return len(self.trials) < (min(1, self.slots) if alone else self.slots) and not any(self.trials.values())

    def train(self, assignment: Assignment, fresh: bool) -> Any:
        """Ask for a trial's next report; return Ray's promise of it."""
        fields = {name: getattr(assignment, name) for name in ("number", "seed", "known")}
        return self.handle.train.remote({**fields, "params": dict(assignment.params)}, fresh)


class WorkerPool:
    """Places trials on devices. To be used from one thread.

    Args:
        conductor: told of what hosts say.
        host: class of the hosts.
    """

    def __init__(self, controller: TrialController, host: type[PackHost]) -> None:
        self.controller = controller
        count, on_gpus = cluster.devices()
        self._count = count
        threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // count)
        driver = None if os.environ.get("RAY_ADDRESS") else os.getpid()
        most = max(controller.space.slots, controller.space.max_slots)
        # Every trial's call waits in a thread of its own; some more for those that leave and those that ask anew.
        self._class = ray.remote(host).options(
            num_cpus=1, num_gpus=1 if on_gpus else 0, max_concurrency=2 * most + 8, max_restarts=0
        )
        self._arguments = (str(controller.study.folder.resolve()), threads, driver)
        # On one machine's cores the first host is made alone: processes that import at the same time slow each other
        # down, and the first trial starts sooner.
        self._to_make = list(range(count))
        self._places: list[Worker] = []
        self._make_next(count if on_gpus or driver is None else 1)

    def _make_next(self, most: int) -> None:
        chosen, self._to_make = self._to_make[:most], self._to_make[most:]
        self._places += [self._make(device) for device in chosen]

    def _make(self, device: int, deaths: int = 0) -> Worker:
        handle = self._class.remote(*self._arguments)
        return Worker(device, deaths, handle, handle.ready.remote())

    def room(self) -> bool:
        """Whether one more trial should be placed now.

        However many slots there are, no more than a quarter of all trials train at a time: a sampler that was shown
        nothing yet chooses blindly.
        """
        most = max(self._count, math.ceil(self.controller.history.target * SHARE))
        placed = sum(len(place.trials) for place in self._places)
        return placed < most and any(place.takes(alone=False) for place in self._places)

    def place(self, assignment: Assignment) -> Worker | None:
        """Choose a host for a trial; None when there is no room now."""
        alone = assignment.lost >= SUSPECT
        free = [place for place in self._places if place.takes(alone)]
        if not free:
            return None
        chosen = min(free, key=lambda place: len(place.trials) / place.slots)
        chosen.trials[assignment.number] = alone
        return chosen

    def free(self, number: int) -> None:
        """Let a trial leave its host: it ended or was paused."""
        for place in self._places:
            if place.trials.pop(number, None) is not None:
                place.handle.leave.remote(number)

    def died(self, place: Worker) -> None:
        """Replace a host; a second word of the same death changes nothing."""
        if place in self._places:
            with contextlib.suppress(Exception):
                ray.kill(place.handle)
            log.warning("the process of device %d died; a new one takes its place", place.device)
            self._places[self._places.index(place)] = self._make(place.device, place.deaths)

    def poll(self) -> None:
        """Take note of hosts that became ready or could not open their session; call it often.

        Raises:
            UserError: no trial has begun, and what keeps them from it is for the user to mend.
        """
        for place in tuple(self._places):
            if place.opening is None or not ray.wait([place.opening], timeout=0)[0]:
                continue
            opening, place.opening = place.opening, None
            try:
                about = ray.get(opening)
            except ray.exceptions.RayTaskError as error:  # what kept it from opening the backbone or the images
                if isinstance(error.cause, UserError) and not self.controller.history.trials:
                    raise error.cause from None
                self._give_up(f"device {place.device} cannot train", error.cause or error)
            except ray.exceptions.RayError as error:
                place.deaths += 1
                if place.deaths > MAX_DEATHS:
                    self._give_up(f"the process of device {place.device} dies before it can train", error)
                else:
                    self.died(place)
            else:
                place.deaths, place.slots = 0, about["slots"]
                references = about.pop("references", {})
                if references and not self.controller.history.baselines:
                    self.controller.note("baselines", **references)
                self.controller.note("host", index=place.device, **about)
                self._make_next(len(self._to_make))

    def wait(self, seconds: float) -> None:
        """Wait until a host is ready, at most so long."""
        opening = [place.opening for place in self._places if place.opening is not None]
        if opening:
            ray.wait(opening, timeout=seconds)
        else:
            time.sleep(seconds)

    def _give_up(self, what: str, error: BaseException) -> None:
        why = " ".join(str(error).split())[-300:]
        self.controller.stopping = self.controller.stopping or f"{what}: {why}"

    def close(self) -> None:
        """End all hosts."""
        for place in self._places:
            with contextlib.suppress(Exception):
                ray.kill(place.handle)
