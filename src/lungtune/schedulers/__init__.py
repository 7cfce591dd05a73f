"""Schedulers: one module each, discovered by file name; each exposes its class as ``SCHEDULER``."""

from __future__ import annotations

import sys
from typing import Any

from lungtune.core import members
from lungtune.core import params as parameters
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import Scheduler, SchedulerConfig
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError, did_you_mean


def names() -> list[str]:
    """Return the names of all schedulers."""
    return members.names(sys.modules[__name__])


def get(name: str) -> type[Scheduler[Any]]:
    """Return a scheduler class by name.

    Raises:
        SpaceError: there is none of that name.
    """
    if name not in names():
        raise SpaceError(
            f"scheduler.name must be {' or '.join(names())}, but got {name!r}.{did_you_mean(name, names())}"
        )
    scheduler: type[Scheduler[Any]] = members.load(sys.modules[__name__], name, "SCHEDULER")
    return scheduler


def create(config: SchedulerConfig, fidelity: Fidelity, objective: Objective) -> Scheduler[Any]:
    """Return a new scheduler that has recorded nothing.

    Raises:
        SpaceError: the config names no scheduler, or a setting is not accepted.
    """
    checked = config.changed({}, get)
    kind = get(checked.name)
    return kind(fidelity, objective, parameters.build(kind.Settings, checked.settings))
