"""A search from command-line options to its result: prepare, run the trials, summarise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console

from lungtune import summary, tracking
from lungtune.core import devices, environment, machine, stopping
from lungtune.core.io import stage
from lungtune.core.space import SearchSpace
from lungtune.core.stopping import Stopped, Stops
from lungtune.core.study import Study
from lungtune.errors import STOPPED, DataError, LungtuneError, MachineError, SpaceError, UserError, WeightsError
from lungtune.search import backends, preparation, tuner
from lungtune.search.backend import Backend, Startup
from lungtune.search.controller import TrialController
from lungtune.search.preparation import Options, Prepared
from lungtune.search.ui import live, opening, result_text, stopped_text

__all__ = ["Options", "run"]

UNTRACKED = "The search runs all the same; lungtune ui --sync STUDY delivers it later."
"""Follows a note that MLflow takes nothing."""

DELIVERY = 60.0
"""Seconds that a finished search waits for MLflow."""

STOPPED_DELIVERY = 10.0
"""Seconds that a stopped one does."""


def run(options: Options, console: Console) -> int:
    """Run or resume a search; return the exit code (0 done, 1 no trial has a score, 3 stopped and resumable).

    Raises:
        UserError: the user must correct something; no study was created, and an existing one is unchanged.
    """
    devices.choose_gpus(options.gpus)

    def backend(space: SearchSpace) -> Backend:
        made = backends.get(preparation.ENGINES[preparation.engine(options, space)])()
        made.max_workers = options.hosts
        return made

    def begin(space: SearchSpace) -> None:
        trouble = tracking.problem()
        if trouble:
            opening.note(f"{trouble} {UNTRACKED}", console)
        startup.begin(space)

    begun: list[Study] = []
    with stopping.stoppable() as stops, Startup(backend) as startup:
        stops.limit(options.budget)
        try:
            prepared = preparation.prepare(options, console, begin, begun.append)
            study = prepared.study
            try:
                return _search(prepared, options, console, startup, stops)
            except (SpaceError, DataError, WeightsError):  # raised by a worker; --resume would keep the mistake
                if not options.resume and not study.history().trials:
                    study.discard()
                raise
            finally:
                study.release()
        except Stopped as stop:
            why = stop.reason
        except UserError:
            raise
        except Exception as error:
            if not _of_the_machine(error):
                raise
            why = _cause(error)
        stopped_text.show(begun[0].name if begun else None, why, console)
        return STOPPED


def _of_the_machine(error: BaseException) -> bool:
    return isinstance(error, MachineError) or bool(machine.kind(error))


def _cause(error: BaseException) -> str:
    """Return why a search ended early, for the journal and the user."""
    if isinstance(error, Stopped):
        return error.reason
    if isinstance(error, MachineError):
        return str(error)
    return machine.sentence(error) if machine.kind(error) else "error"


def _search(prepared: Prepared, options: Options, console: Console, startup: Startup, stops: Stops) -> int:
    """Run the remaining trials, write and print the result; return the exit code."""
    study, space, data = prepared
    history = study.history()
    controller = TrialController(study, space, history.study["seed"])
    controller.take_requests()
    opening.show(study, space, history, console)
    opening.devices(options.hosts, options.gpus, console)
    began, stopped, unsaved = time.monotonic(), "", ""
    tracker = tracking.Tracker(study.folder)
    changed = environment.changed(history.versions)
    if changed:
        note = f"note: other versions than in the last run: {changed}. Scores may differ slightly from earlier ones."
        console.print(note, highlight=False, soft_wrap=True)
    about = {**environment.process(), "versions": environment.versions()}
    study.append("open", engine=preparation.engine(options, space), **about)
    # MLflow takes seconds to import: start it with the first report, not while the devices start.
    controller.watchers.append(lambda entry: tracker.start() if entry["event"] in ("report", "end") else None)
    try:
        if controller.finished:
            console.print("the study has all its trials; raise --trials to extend it.")
        else:
            stopped = _run_trials(controller, console, startup, stops)
        with stage(f"Computing intervals over {data.validation.unit}"):
            result = summary.build(study, data.validation.patients, data.validation.unit)
        unsaved = _save(study, result)
    except BaseException as error:
        with suppress(LungtuneError):
            study.append("stop", why=controller.stop_reason or _cause(error), **environment.process())
        raise
    with suppress(MachineError):  # a full disk, which has stopped the search or kept the summary from being written
        study.append("stop", why=stopped or unsaved or "done", **environment.process())
    result_text.show(study, space, result, console, time.monotonic() - began)
    tracker.start()
    with stage("Delivering the rest to MLflow"):
        delivery = tracker.stop(timeout=STOPPED_DELIVERY if stopped else DELIVERY)
    if not delivery:
        opening.note(delivery.sentence, console)
    if not controller.finished or unsaved:
        if stopped == stopping.SPENT:
            stopped_text.note_no_progress(controller.history, study, console)
        stopped_text.show(study.name, stopped or unsaved, console, controller.history)
        return STOPPED
    return 0 if result["best"] else 1


def _save(study: Study, result: Mapping[str, Any]) -> str:
    """Write the summary to the study's folder and the journal; return why that failed, or an empty string."""
    try:
        summary.save(study, result)
        study.append("summary", best=result_text.headline(result), work=result["work"])
    except MachineError as error:
        return str(error)
    except OSError as error:
        return f"{study.summary_path.name} could not be written: {machine.sentence(error)}; mend that, then resume"
    return ""


def _run_trials(controller: TrialController, console: Console, startup: Startup, stops: Stops) -> str:
    """Run the trials with the live view; return the reason of an early stop, or an empty string."""
    view = live.View(console, controller.history, controller.space)
    view.waiting = "starting Ray"
    controller.watchers.append(view.event)

    def tick() -> None:
        view.tick()
        controller.take_requests()
        stops.hold()
        if stops.spent:
            controller.request_stop(stopping.SPENT)

    with stops.deferred(controller.request_stop), view:
        while not startup.done and not controller.stop_reason:
            tick()
            time.sleep(tuner.POLL_SECONDS)
        if controller.stop_reason:
            return controller.stop_reason
        workers = startup.result()
        controller.suggest = workers.suggest or controller.suggest
        view.waiting = "starting a worker process for each device"
        tuner.run_trials(controller, workers, tick, lambda event: view.doing(event.index, event.what), view.say)
    stops.limit(None)  # the result is not cut short
    return controller.stop_reason
