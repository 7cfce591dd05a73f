"""One search from the command line to the last word: prepare, run, conclude."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from lungtune import catalog, summary
from lungtune.cli import STOPPED
from lungtune.core import environment, synthetic
from lungtune.core import params as parameters
from lungtune.core.family import Classifier, Trainable
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError, StudyError, WeightsError
from lungtune.search import bank_provision
from lungtune.search.ui import live, result_text

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Options:
    """What the user asked for."""

    space: str | None = None
    data: str | None = None
    profile: str | None = None
    trials: int | None = None
    budget: float | None = None
    """Wall time of this run in seconds."""
    study: str | None = None
    resume: bool = False
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    bank: Path | None = None
    """Folder of synthetic images."""


def run(options: Options, console: Console) -> int:
    """Run or resume a search; return the exit code (0 done, 3 stopped and resumable).

    Raises:
        UserError: something the user can mend; no study was begun, or a begun one was left as it was.
    """
    prepare = _resumed if options.resume else _new
    with ThreadPoolExecutor(1) as aside:
        started: list[Future[None]] = []
        try:
            study, space, dataset = prepare(options, console, lambda: started.append(aside.submit(_start_ray)))
            try:
                return _search(study, space, dataset, options, console, started[0])
            except (SpaceError, DataError, WeightsError):  # found by a host; --resume would keep what has to be mended
                if not options.resume and not study.history().trials:
                    shutil.rmtree(study.folder)
                raise
            finally:
                study.release()
        finally:
            for each in started:
                _stop_ray(each)


def _start_ray() -> None:
    """Start Ray: ten seconds of which most are waiting, so it is done while the data are looked at."""
    from lungtune.search import tuner  # with it, all that imports ray

    tuner.cluster.start()


def _stop_ray(started: Future[None]) -> None:
    if started.exception() is None:
        from lungtune.search.backends.ray_hosts import cluster

        cluster.stop()


def _new(options: Options, console: Console, start_ray: Callable[[], None]) -> tuple[Study, SearchSpace, Any]:
    """Check everything that can be checked, then begin the study; ``start_ray`` once a search is likely."""
    if options.space is None:
        raise SpaceError(f"--space must be given; shipped are {', '.join(catalog.spaces())}.")
    profile = options.profile or catalog.default_profile(options.space, with_data=options.data is not None)
    space = catalog.space(options.space, profile, options.settings)
    source = options.data or space.data or "phantom"
    seed = next(value for value in (options.seed, space.seed, 0) if value is not None)
    trials = options.trials or space.trials
    made = _families(space)
    if options.bank is not None:
        synthetic.refuse_idle(space)

    from lungtune.data import dataset, sources

    _, path, _ = sources.parse_source(source)
    if path is not None and not path.exists():
        sources.index_source(source)  # says what is missing; before the weights, which may take a while to look for
    study = Study.new(options.study, space.name)
    for trainable, base in made:
        trainable.check(base)
    start_ray()

    inspection = dataset.inspect(source, seed=seed)
    for warning in inspection.audit.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    if inspection.audit.problems:
        raise DataError("the data can't be searched on as it is: " + " ".join(inspection.audit.problems))
    wanting = next((name for name, _ in space.bases if catalog.family(name).needs_masks), None)
    if wanting and not inspection.manifest.masked:
        raise DataError(
            f"{wanting} needs lung masks, but {inspection.source} names none. Name their folder, as in "
            f"chest_xray:DIR,masks=DIR2, or give a table with a column 'mask'."
        )
    with study.claimed():  # a bank may take hours, in which nobody else may take the name
        bank = bank_provision.bank(space, inspection, options.bank, profile, console)
        data = dataset.load(inspection, made[0][1].image_size, masks=wanting is not None, bank=bank)
        if wanting and not data.train.masked.any():
            raise DataError(f"{wanting} needs lung masks, but no training image of {inspection.source} has one.")
    inspection.save(study.split_path)
    counts = {"train": len(data.train.labels), "validation": len(data.validation.labels)}
    about = {"source": data.source, "hash": data.manifest.hash, "classes": list(data.classes), "counts": counts}
    if bank:
        about["bank"] = bank.to_dict()
        bank_provision.show(bank, study)
    resolved = SearchSpace.from_dict({**space.to_dict(), "trials": trials})
    study.begin(resolved, data=about, seed=seed, about=environment.describe())
    _constant(study, resolved, data)
    return study, resolved, data


def _constant(study: Study, space: SearchSpace, data: Any) -> None:
    """Note what a constant class scores; what a generator's trials are read beside, its hosts find out."""
    from lungtune.tasks.classification import baselines

    if isinstance(catalog.family(space.bases[0][0]), Classifier):
        study.append(
            "baselines", constant=baselines.constant_class(data.train.labels, data.validation.labels, data.classes)
        )


def _families(space: SearchSpace) -> list[tuple[Trainable, Any]]:
    """Return every family with each ``Base`` that a trial may train on."""
    families = [(catalog.family(name), base) for name, base in space.bases]
    return [(trainable, parameters.build(trainable.Base, base)) for trainable, base in families]


def _resumed(options: Options, console: Console, start_ray: Callable[[], None]) -> tuple[Study, SearchSpace, Any]:
    """Open a study that was begun."""
    if options.study is None:
        known = ", ".join(Study.names()) or "none yet"
        raise StudyError(f"--resume needs --study NAME; studies: {known}.")
    for flag in ("space", "data", "profile", "seed", "bank"):
        if getattr(options, flag) is not None:
            raise StudyError(f"a resumed study keeps its {flag}; leave --{flag} out, or begin a new study with it.")
    if options.settings:
        raise StudyError("a resumed study keeps its settings; leave --set out, or begin a new study with it.")
    study = Study.open(options.study)
    study.acquire()
    if study.healed:
        console.print(f"healed: the journal's last line was cut short ({study.healed} bytes put aside).")
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])
    if options.trials is not None and options.trials < len(history.trials):
        raise StudyError(
            f"--trials must be at least {len(history.trials)}, the trials this study has, but got {options.trials}."
        )

    from lungtune.data import dataset
    from lungtune.data.synthetic_bank import Bank

    made = _families(space)
    for trainable, base in made:
        trainable.check(base)
    about = history.study["data"].get("bank")
    bank = Bank.again(about) if about else None
    start_ray()
    data = dataset.load(study.split_path, made[0][1].image_size, bank=bank)
    if not history.baselines:
        _constant(study, space, data)
    if options.trials is not None and options.trials != history.target:
        study.append("target", trials=options.trials)
    return study, space, data


def _search(
    study: Study, space: SearchSpace, data: Any, options: Options, console: Console, started: Future[None]
) -> int:
    from lungtune.search.controller import TrialController
    from lungtune.tracking import Tracker

    history = study.history()
    controller = TrialController(study, space, history.study["seed"])
    about = history.study["data"]
    console.print(f"[bold]study {study.name}[/bold]  {escape(str(study.folder))}", highlight=False, soft_wrap=True)
    classes = ", ".join(about["classes"])
    counts = f"{about['counts']['train']:,} training and {about['counts']['validation']:,} validation cases"
    told = escape(f"data {about['source']}: {counts} of {classes}; split {about['hash'][:12]}")
    console.print(told, highlight=False, soft_wrap=True)
    if space.profile != "full" and space.why:
        console.print(f"profile {space.profile}: {escape(space.why)}", highlight=False, soft_wrap=True)
    console.print(live.plan(space, history.target, about["counts"]["train"]))
    began = time.monotonic()
    stopped = ""
    tracker = Tracker(study.folder)
    study.append("open", **environment.process())
    # Not before there is something to track: MLflow takes seconds to import, and the devices are starting.
    controller.watchers.append(lambda entry: tracker.start() if entry["event"] in ("report", "end") else None)
    if controller.finished:
        console.print("the study has all its trials; raise --trials to extend it.")
    else:
        try:
            stopped = _run_trials(controller, options, console, started)
        except BaseException:
            study.append("stop", why=controller.stopping or "error", **environment.process())
            raise
    result = summary.write(study, data.validation.patients)
    study.append("summary", best=result_text.headline(result), work=result["work"])
    study.append("stop", why=stopped or "done", **environment.process())
    result_text.show(study, space, result, console, time.monotonic() - began)
    tracker.start()
    delivery = tracker.stop(timeout=60.0)
    if not delivery:
        console.print(f"note: {delivery.sentence}", highlight=False, soft_wrap=True)
    if not controller.finished:
        why = escape(stopped or controller.stopping)
        resume = f"python scripts/search.py --resume --study {study.name}"
        console.print(f"stopped ({why}). Go on with:\n  {resume}", highlight=False, soft_wrap=True)
        return STOPPED
    return 0 if result["best"] else 1


def _run_trials(controller: Any, options: Options, console: Console, started: Future[None]) -> str:
    """Run the trials under the live view; return why the search stopped early, or nothing."""
    deadline = time.monotonic() + options.budget if options.budget else None
    if not started.done():
        console.print("starting Ray ...", highlight=False)
    view = live.View(console, controller.history, controller.space)
    controller.watchers.append(view.event)

    def tick() -> None:
        view.tick()
        if deadline is not None and time.monotonic() > deadline:
            controller.stopping = controller.stopping or "the time budget is spent"

    with _stopping(controller):
        started.result()
        from lungtune.search import tuner

        with view:
            tuner.run_trials(controller, tick)
    if deadline is not None and time.monotonic() > deadline:
        controller.close_by_budget()
    return str(controller.stopping)


@contextmanager
def _stopping(controller: Any) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops cleanly, the second at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if controller.stopping:
            raise KeyboardInterrupt
        controller.stopping = signal.Signals(number).name
        print("\nstopping: trials end at their last checkpoint (again to stop at once) ...", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
