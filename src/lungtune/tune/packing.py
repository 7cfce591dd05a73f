"""Scheduler wrapper under which the trials of a device train together in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import SpaceError, UserError
from lungtune.search.backend import WorkerUnusable
from lungtune.search.backends.ray_hosts.workers import Worker, WorkerPool
from lungtune.search.backends.ray_tune import virtual
from lungtune.search.backends.ray_tune.backend import HOST_CPUS
from lungtune.search.backends.ray_tune.host import TuneHost
from lungtune.search.backends.ray_tune.trainable import LungtuneTrainable

WAITING = 256
"""Calls that may wait in a host beside those of its slots: trials of a population that has more of them than slots."""


def packed(scheduler: TrialScheduler | None = None, slots: int = 0) -> Packed:
    """Return a scheduler that decides as ``scheduler`` does and lets trials share processes and frozen bases.

    Args:
        scheduler: any of Tune's; by default FIFO.
        slots: trials at a time on a device; by default measured, or 1 / the fraction of a GPU that a trial asks for.
    """
    return Packed(scheduler or FIFOScheduler(), slots)


class Packed(TrialScheduler):
    """See :func:`packed`. Where this version of Ray does not allow it, trials stay actors of their own."""

    def __init__(self, scheduler: TrialScheduler, slots: int) -> None:
        super().__init__()
        self._scheduler, self._slots = scheduler, slots
        self._hosts: _Hosts | None = None
        self._installed = False

    def __reduce__(self) -> Any:
        return packed, (self._scheduler, self._slots)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """See ``TrialScheduler``."""
        return bool(self._scheduler.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``; the first trial opens the hosts.

        Raises:
            SpaceError: the trial is not of lungtune's trainable.
        """
        if not self._installed:
            self._installed = True
            hosts = _Hosts(trial, self._slots)
            if virtual.install(controller, hosts.place):
                self._hosts = hosts
                virtual.at_end(controller, self._end)
            else:
                hosts.close()
        if self._hosts is not None and trial.status != Trial.RUNNING:
            trial.update_resources({"cpu": virtual.CPUS})
        self._scheduler.on_trial_add(controller, trial)

    def _end(self) -> None:
        """End the hosts; another experiment opens its own."""
        if self._hosts is not None:
            self._hosts.close()
        self._hosts, self._installed = None, False

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``; a host that died is replaced, and ``max_failures`` trains its trials again."""
        if self._hosts is not None:
            self._hosts.mend(trial.trial_id)
        self._scheduler.on_trial_error(controller, trial)

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """See ``TrialScheduler``."""
        if self._hosts is not None:
            self._hosts.poll()
        return self._scheduler.choose_trial_to_run(controller)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See ``TrialScheduler``."""
        return str(self._scheduler.on_trial_result(controller, trial, result))

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """See ``TrialScheduler``."""
        self._scheduler.on_trial_complete(controller, trial, result)
        self._left(trial)

    def _left(self, trial: Trial) -> None:
        if self._hosts is not None:
            self._hosts.left(trial.trial_id)

    def on_trial_remove(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``."""
        self._scheduler.on_trial_remove(controller, trial)
        self._left(trial)

    def debug_string(self) -> str:
        """See ``TrialScheduler``."""
        return self._scheduler.debug_string()

    @property
    def metric(self) -> str | None:
        """See ``TrialScheduler``."""
        return self._scheduler.metric

    @property
    def supports_buffered_results(self) -> bool:
        """See ``TrialScheduler``."""
        return False

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._end()


class _Hosts:
    """Hosts of one experiment, and which trials are on them."""

    def __init__(self, trial: Trial, slots: int) -> None:
        cls = trial.get_trainable_cls()
        if not (isinstance(cls, type) and issubclass(cls, LungtuneTrainable)):
            raise SpaceError(f"packed() takes trials of lungtune.tune.trainable, but got {trial.trainable_name}.")
        folder = Path(cls.study)
        space = SearchSpace.from_dict(Study(folder).history().study["space"])
        request = trial.placement_group_factory
        share = request.required_resources.get("GPU", 0.0) if request is not None else 0.0
        slots = slots or (int(1 / share) if 0 < share < 1 else 0)
        self._pool = WorkerPool(space, TuneHost, cpus=HOST_CPUS, slots=slots, waiting=WAITING, alone=True)
        self._pool.open(folder)
        self._workers: dict[str, Worker] = {}

    def place(self, named: Mapping[str, Any]) -> Any:
        """Return the host with the fewest trials a slot."""
        trial_id = named["config"]["__trial_info__"].trial_id
        self._workers.pop(trial_id, None)
        counts = {id(worker): 0 for worker in self._pool.workers}
        for worker in self._workers.values():
            counts[id(worker)] = counts.get(id(worker), 0) + 1
        ready = [worker for worker in self._pool.workers if worker.slots] or self._pool.workers
        worker = min(ready, key=lambda worker: counts[id(worker)] / max(1, worker.slots))
        self._workers[trial_id] = worker
        return worker.handle

    def left(self, trial_id: str) -> None:
        """Note that a trial has ended."""
        self._workers.pop(trial_id, None)

    def mend(self, trial_id: str) -> None:
        """Replace the host of a failed trial if it is dead."""
        worker = self._workers.pop(trial_id, None)
        if worker is None or worker not in self._pool.workers:
            return
        if not self._pool.answers(worker):
            self._pool.replace(worker, "its process died", ())

    def poll(self) -> None:
        """Take in which hosts are ready.

        Raises:
            UserError: one cannot open the study, and the user must mend it.
        """
        for event in self._pool.poll():
            if isinstance(event, WorkerUnusable) and isinstance(event.error, UserError) and not event.others:
                raise event.error

    def close(self) -> None:
        """End the hosts."""
        self._pool.close()
