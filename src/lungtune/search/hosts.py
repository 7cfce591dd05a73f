"""The hosts of a search: one for each device, made, filled and replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass, field
from typing import Any

import ray

from lungtune.search.conductor import Assignment, Conductor
from lungtune.search.host import PackHost

log = logging.getLogger(__name__)

LIGHT = 0.001
"""Share of a core that Ray books for a process that only waits."""

SUSPECT = 2
"""A trial that lost its host so often without a report in between trains alone: it may be what kills them."""

MAX_DEATHS = 3
"""How often in a row a host may die before it is ready."""


@dataclass
class _Host:
    """One device's process, as the driver sees it."""

    device: int
    generation: int = 0
    deaths: int = 0
    name: str = ""
    handle: Any = None
    opening: Any = None
    """Ray's promise of what the host says when it is ready; None afterwards."""
    slots: int = 0
    trials: dict[int, bool] = field(default_factory=dict)
    """Number of each trial placed here: whether it must be alone."""

    def takes(self, alone: bool) -> bool:
        """Whether there is room for one more trial, or for one that must be alone."""
        return len(self.trials) < (min(1, self.slots) if alone else self.slots) and not any(self.trials.values())


class Hosts:
    """Places trials on devices. To be used from one thread.

    Args:
        conductor: told of what hosts say and of trials that lost theirs.
        host: class of the hosts.
        on_gpus: whether the devices are GPUs, or cores.
        count: how many devices.
        driver: this process if all hosts are on its machine.
    """

    def __init__(
        self, conductor: Conductor, host: type[PackHost], *, on_gpus: bool, count: int, driver: int | None
    ) -> None:
        self.conductor = conductor
        self.driver = driver
        self._class = ray.remote(host)
        self._resources = {"num_cpus": 0.9, "num_gpus": 1 if on_gpus else 0}
        self._calls = 4 * max(conductor.space.slots, conductor.space.max_slots)
        self._threads = max(1, int(ray.cluster_resources().get("CPU", 1)) // count)
        self._hosts = [_Host(device) for device in range(count)]
        for each in self._hosts:
            self._make(each)

    def _make(self, host: _Host) -> None:
        host.generation += 1
        # The first trial's light process may start while the host does. Of a host that died nobody knows whether there
        # is still a device for it: it gets trials when it is ready.
        host.slots = 1 if host.generation == 1 else 0
        host.name = f"lungtune-{os.getpid()}-{id(self):x}-{host.device}-{host.generation}"
        options = {**self._resources, "name": host.name, "max_concurrency": self._calls}
        study = str(self.conductor.study.folder.resolve())
        host.handle = self._class.options(**options).remote(study, self._threads, self.driver)
        host.opening = host.handle.ready.remote()

    def place(self, assignment: Assignment) -> str | None:
        """Choose a host for a trial; return its name, or None when there is no room now."""
        alone = assignment.lost >= SUSPECT
        free = [host for host in self._hosts if host.takes(alone)]
        if not free:
            return None
        chosen = min(free, key=lambda host: len(host.trials) / host.slots)
        chosen.trials[assignment.number] = alone
        return chosen.name

    def room(self) -> bool:
        """Whether a trial could be placed now."""
        return any(host.takes(alone=False) for host in self._hosts)

    def free(self, number: int) -> None:
        """Let a trial leave its host: it ended or was paused."""
        for host in self._hosts:
            if host.trials.pop(number, None) is not None:
                host.handle.leave.remote(number)

    def clear(self) -> None:
        """Let all trials leave."""
        for number in [number for host in self._hosts for number in host.trials]:
            self.free(number)

    def dead(self, name: str) -> None:
        """Replace a host that died; a second word of the same death changes nothing."""
        for host in self._hosts:
            if host.name == name:
                with contextlib.suppress(Exception):
                    ray.kill(host.handle)
                log.warning("the process of device %d died; a new one takes its place", host.device)
                self._make(host)

    def poll(self) -> None:
        """Take note of hosts that became ready or could not open their session; call it often."""
        for host in self._hosts:
            if host.opening is None or not ray.wait([host.opening], timeout=0)[0]:
                continue
            opening, host.opening = host.opening, None
            try:
                about = ray.get(opening)
            except ray.exceptions.RayActorError as error:
                host.deaths += 1
                if host.deaths > MAX_DEATHS:
                    self._give_up(f"the process of device {host.device} dies before it can train", error)
                else:
                    self.dead(host.name)
            except Exception as error:  # whatever kept it from opening the backbone or the images
                self._give_up(f"device {host.device} cannot train", getattr(error, "cause", None) or error)
            else:
                host.deaths, host.slots = 0, about["slots"]
                self.conductor.note("host", index=host.device, **about)

    def _give_up(self, what: str, error: BaseException) -> None:
        why = " ".join(str(error).split())[-300:]
        self.conductor.stopping = self.conductor.stopping or f"{what}: {why}"

    def close(self) -> None:
        """End all hosts."""
        for host in self._hosts:
            with contextlib.suppress(Exception):
                ray.kill(host.handle)
