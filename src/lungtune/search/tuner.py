"""The search's loop: hosts get trials, the conductor gets reports, until there is nothing left to do.

Ray places hosts and tells when one dies. A trial is no process of its own: it is a call that waits for a host's next
report of it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import ray

from lungtune.errors import StudyError
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.backends.ray_hosts.workers import Worker, WorkerPool
from lungtune.search.controller import MAX_LOST, Assignment, TrialController

log = logging.getLogger(__name__)
_PATIENCE = 0.2
"""Seconds to wait for a report before the view is drawn again."""


def run_trials(controller: TrialController, tick: Callable[[], None], host: type[PackHost] = PackHost) -> None:
    """Run trials until the conductor has no more or is stopping.

    A trial whose host dies goes on from its last checkpoint on another. When Ray itself is gone it is started again,
    and a new loop takes over from the journal.

    Raises:
        StudyError: Ray fails again and again without a report in between.
    """
    failures = 0
    while not controller.finished and not controller.stopping:
        reports = len(controller.history.order)
        try:
            _run(controller, tick, host)
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            why = " ".join(str(error).split())[:300]
            log.warning("Ray failed (%s); going on from the journal.", why[:200])
            failures = failures + 1 if len(controller.history.order) == reports else 0
            if failures > MAX_LOST:
                raise StudyError(
                    f"Ray fails again and again without a new report: {why}. Mend it, then resume."
                ) from error
            with contextlib.suppress(Exception):
                cluster.stop()
            cluster.start()
        finally:
            controller.requeue()


def _run(controller: TrialController, tick: Callable[[], None], host: type[PackHost]) -> None:
    hosts = WorkerPool(controller, host)
    calls: dict[Any, tuple[Assignment, Worker]] = {}
    held: Assignment | None = None
    try:
        while not controller.finished and not controller.stopping:
            hosts.poll()
            while held is not None or hosts.room():
                held = held or controller.next()
                place = hosts.place(held) if held is not None else None
                if held is None or place is None:  # nothing to train before the next report; or it waits to be alone
                    break
                calls[place.train(held, fresh=True)] = held, place
                held = None
            tick()
            if not calls:
                hosts.wait(_PATIENCE)
                continue
            for call in ray.wait(list(calls), timeout=_PATIENCE)[0]:
                assignment, place = calls.pop(call)
                if _goes_on(controller, hosts, assignment, place, call):
                    calls[place.train(assignment, fresh=False)] = assignment, place
                else:
                    hosts.free(assignment.number)
    finally:
        hosts.close()


def _goes_on(controller: TrialController, hosts: WorkerPool, assignment: Assignment, place: Worker, call: Any) -> bool:
    """Take a trial's report, or note that its host died; return whether it trains on there."""
    try:
        outcome = ray.get(call)
    except ray.exceptions.RayError as error:
        hosts.died(place)
        controller.retry_or_give_up(assignment.number, " ".join(str(error).split())[:500])
        return False
    return controller.report(assignment.number, outcome)
