"""A search from command-line options to its result: prepare, run the trials, summarise."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape

from lungtune import summary
from lungtune.core import environment
from lungtune.core.io import stage
from lungtune.errors import STOPPED, DataError, SpaceError, WeightsError
from lungtune.search import backends, preparation, tuner
from lungtune.search.backend import Startup
from lungtune.search.budget import Budget
from lungtune.search.controller import TrialController
from lungtune.search.preparation import Options, Prepared
from lungtune.search.signals import stop_on_signals
from lungtune.search.ui import live, opening, result_text
from lungtune.tracking import Tracker

__all__ = ["Options", "run"]


def run(options: Options, console: Console) -> int:
    """Run or resume a search; return the exit code (0 done, 1 no trial has a score, 3 stopped and resumable).

    Raises:
        UserError: the user must correct something; no study was created, and an existing one is unchanged.
    """
    with Startup(lambda space: backends.get(preparation.ENGINES[preparation.engine(options, space)])()) as startup:
        prepared = preparation.prepare(options, console, startup.begin)
        study = prepared.study
        try:
            return _search(prepared, options, console, startup)
        except (SpaceError, DataError, WeightsError):  # raised by a worker; --resume would keep the mistake
            if not options.resume and not study.history().trials:
                study.discard()
            raise
        finally:
            study.release()


def _search(prepared: Prepared, options: Options, console: Console, startup: Startup) -> int:
    """Run the remaining trials, write and print the result; return the exit code."""
    study, space, data = prepared
    history = study.history()
    controller = TrialController(study, space, history.study["seed"])
    controller.take_requests()
    opening.show(study, space, history, console)
    began = time.monotonic()
    stopped = ""
    tracker = Tracker(study.folder)
    changed = environment.changed(history.versions)
    if changed:
        note = f"note: other versions than in the last run: {changed}. Scores may differ slightly from earlier ones."
        console.print(note, highlight=False, soft_wrap=True)
    about = {**environment.process(), "versions": environment.versions()}
    study.append("open", engine=preparation.engine(options, space), **about)
    # MLflow takes seconds to import: start it with the first report, not while the devices start.
    controller.watchers.append(lambda entry: tracker.start() if entry["event"] in ("report", "end") else None)
    if controller.finished:
        console.print("the study has all its trials; raise --trials to extend it.")
    else:
        try:
            stopped = _run_trials(controller, options, console, startup)
        except BaseException:
            study.append("stop", why=controller.stop_reason or "error", **environment.process())
            raise
    with stage(f"Computing intervals over {data.validation.unit}"):
        result = summary.write(study, data.validation.patients, data.validation.unit)
    study.append("summary", best=result_text.headline(result), work=result["work"])
    study.append("stop", why=stopped or "done", **environment.process())
    result_text.show(study, space, result, console, time.monotonic() - began)
    tracker.start()
    with stage("Delivering the rest to MLflow"):
        delivery = tracker.stop(timeout=60.0)
    if not delivery:
        console.print(f"note: {delivery.sentence}", highlight=False, soft_wrap=True)
    if not controller.finished:
        why = escape(stopped or controller.stop_reason)
        resume = f"lungtune search --resume --study {study.name}"
        console.print(f"stopped ({why}). Go on with:\n  {resume}", highlight=False, soft_wrap=True)
        return STOPPED
    return 0 if result["best"] else 1


def _run_trials(controller: TrialController, options: Options, console: Console, startup: Startup) -> str:
    """Run the trials with the live view; return the reason of an early stop, or an empty string."""
    budget = Budget(options.budget)
    view = live.View(console, controller.history, controller.space)
    view.waiting = "starting Ray"
    controller.watchers.append(view.event)

    def tick() -> None:
        view.tick()
        controller.take_requests()
        budget.check(controller)

    with stop_on_signals(controller), view:
        while not startup.done and not controller.stop_reason:
            tick()
            time.sleep(tuner.POLL_SECONDS)
        workers = startup.result()
        controller.suggest = workers.suggest or controller.suggest
        view.waiting = "starting a worker process for each device"
        tuner.run_trials(controller, workers, tick, lambda event: view.doing(event.index, event.what))
    if budget.spent:
        controller.close_by_budget()
    return controller.stop_reason
