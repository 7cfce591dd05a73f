"""Main loop of a search, between controller and backend. Independent of the backend."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from lungtune.core.trial import State
from lungtune.errors import CheckpointError, MachineError, StudyError, UserError
from lungtune.search.backend import (
    Backend,
    BackendError,
    Event,
    Reported,
    TrialEnded,
    TrialLost,
    TrialPerturbed,
    TrialResumed,
    WorkerDoing,
    WorkerReady,
    WorkerUnusable,
)
from lungtune.search.controller import MAX_LOST, Assignment, TrialController

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Longest wait for an event between two calls of ``tick``, in seconds."""

SUSPECT = 2
"""Number of worker deaths without a report from which a trial trains alone, as it may cause them."""

SHARE = 0.25
"""Largest share of a search's trials in training at a time (at least one per device). With more, the sampler would
suggest trials before it has results."""


def run_trials(
    controller: TrialController,
    backend: Backend,
    tick: Callable[[], None],
    doing: Callable[[WorkerDoing], None] = lambda event: None,
    say: Callable[[str], None] = log.warning,
) -> None:
    """Run trials until the controller has no more or is stopping.

    A trial whose worker dies continues from its last checkpoint on another. A backend that fails as a whole is
    restarted, and the loop continues from the journal.

    Args:
        controller: decides and writes the journal.
        backend: started.
        tick: called between events, at least every ``POLL_SECONDS`` while the backend responds: draws the view, checks
            the time budget. The place for checks of the search as a whole; they end it by ``controller.request_stop``.
        doing: called with each ``WorkerDoing``.
        say: called with a sentence when the backend is restarted.

    Raises:
        MachineError: the backend fails repeatedly without a report in between, or cannot be restarted.
        UserError: no trial has begun, for a cause that the user can correct.
    """
    failures = 0
    while not controller.finished and not controller.stop_reason:
        reports = len(controller.history.order)
        try:
            _run(controller, backend, tick, doing)
        except BackendError as error:
            why = _one_line(error, 300)
            say(f"{backend.title} failed ({why[:200]}); it is started again, and the search goes on from its journal")
            failures = failures + 1 if len(controller.history.order) == reports else 0
            if failures > MAX_LOST:
                raise MachineError(f"{backend.title} fails again and again without a new report: {why}") from error
            with contextlib.suppress(Exception):
                backend.stop()
            backend.start(controller.space)
        finally:
            controller.requeue()


def _run(
    controller: TrialController, backend: Backend, tick: Callable[[], None], doing: Callable[[WorkerDoing], None]
) -> None:
    """Run trials from one ``open`` of the backend to its ``close``."""
    placed: set[int] = set()
    waiting: Assignment | None = None
    try:
        backend.open(controller.study.folder, controller.space)
        while not controller.finished and not controller.stop_reason:
            waiting = _fill(controller, backend, placed, waiting)
            tick()
            for event in backend.poll(POLL_SECONDS):
                if isinstance(event, WorkerDoing):
                    doing(event)
                else:
                    _handle(event, controller, backend, placed)
    finally:
        backend.close()


def _fill(
    controller: TrialController, backend: Backend, placed: set[int], waiting: Assignment | None
) -> Assignment | None:
    """Submit trials while there is room; return the one, if any, that waits for a worker of its own."""
    while waiting is not None or _has_room(controller, backend, placed):
        waiting = waiting or controller.next()
        if waiting is None:  # nothing to train before the next report
            return None
        alone = waiting.lost >= SUSPECT
        if not backend.has_room(alone):
            return waiting
        backend.submit(waiting, alone)
        placed.add(waiting.number)
        waiting = None
    return None


def _has_room(controller: TrialController, backend: Backend, placed: set[int]) -> bool:
    most = max(backend.devices, math.ceil(controller.history.target * SHARE))
    return (backend.takes_all or len(placed) < most) and backend.has_room()


def _handle(event: Event, controller: TrialController, backend: Backend, placed: set[int]) -> None:
    """Pass one backend event to the controller, and its decision to the backend."""
    match event:
        case Reported(number, outcome, decision):
            if controller.report(number, outcome, decision):
                backend.advance(number)
            else:
                backend.release(number, ended=controller.history.trials[number].state is not State.PAUSED)
                placed.discard(number)
        case TrialResumed(number):
            placed.add(number)
            backend.reassign(controller.resume(number))
        case TrialPerturbed(number, donor, params):
            backend.reassign(_perturb(controller, number, donor, params))
        case TrialEnded(number):
            controller.end(number)
            placed.discard(number)
        case TrialLost(number, why):
            placed.discard(number)
            controller.retry_or_give_up(number, why)
        case WorkerReady(index, about, references):
            if references and not controller.history.baselines:
                controller.note("baselines", **references)
            controller.note("host", index=index, **about)
        case WorkerUnusable(what, error, index, others, again):
            why = f"{what}: {_one_line(error)[-300:]}"
            if others:
                controller.note("unusable", index=index, why=why, again=again)
            elif isinstance(error, UserError) and not controller.history.trials:
                raise error
            else:
                controller.request_stop(why)


def _perturb(controller: TrialController, number: int, donor: int, params: Mapping[str, Any]) -> Assignment:
    """Replace a trial by a copy of a donor's newest checkpoint; without one, only its parameters change.

    The checkpoint is copied before the journal names it: the donor prunes its own.
    """
    from lungtune.engine import report_files  # imports torch

    study, trials = controller.study, controller.history.trials
    for report in reversed(trials[donor].reports):
        file = study.folder / str(report.checkpoint)
        with contextlib.suppress(FileNotFoundError, CheckpointError):
            report_files.inherit(file, study.checkpoints(number, trials[number].segment + 1))
            return controller.perturb(number, donor, report.fidelity, params, report.checkpoint)
    raise StudyError(f"trial {number} must go on from trial {donor}, whose checkpoints are gone; resume the study.")


def _one_line(error: BaseException, limit: int | None = None) -> str:
    return " ".join(str(error).split())[:limit]
