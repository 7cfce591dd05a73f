"""One search from the command line to the last word: prepare, run, conclude."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.markup import escape

from lungtune import catalog
from lungtune.cli import STOPPED
from lungtune.core import environment, paths
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import DataError, SpaceError, StudyError
from lungtune.evaluate import summary
from lungtune.search import live


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
            finally:
                study.release()
        finally:
            for each in started:
                _stop_ray(each)


def _start_ray() -> None:
    """Start Ray: ten seconds of which most are waiting, so it is done while the data are looked at."""
    from lungtune.search import raytune

    raytune.start_ray()


def _stop_ray(started: Future[None]) -> None:
    if started.exception() is None:
        from lungtune.search import raytune

        raytune.stop_ray()


def _new(options: Options, console: Console, start_ray: Callable[[], None]) -> tuple[Study, SearchSpace, Any]:
    """Check everything that can be checked, then begin the study; ``start_ray`` once a search is likely."""
    if options.space is None:
        raise SpaceError(f"--space must be given; shipped are {', '.join(catalog.spaces())}.")
    profile = options.profile or catalog.default_profile(options.space, with_data=options.data is not None)
    space = catalog.space(options.space, profile, options.settings)
    source = options.data or space.data or "phantom"
    seed = next(value for value in (options.seed, space.seed, 0) if value is not None)
    trials = options.trials or space.trials
    trainable = catalog.family(space.family)
    base = parameters.build(trainable.Base, space.base)

    from lungtune.data import dataset, sources
    from lungtune.evaluate import baselines

    _, path, _ = sources.parse_source(source)
    if path is not None and not path.exists():
        sources.index_source(source)  # says what is missing; before the weights, which may take a while to look for
    study = Study.new(options.study, space.name)
    trainable.check(base)
    start_ray()

    inspection = dataset.inspect(source, seed=seed)
    for warning in inspection.audit.warnings:
        console.print(f"[yellow]note:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    if inspection.audit.problems:
        raise DataError("the data can't be searched on as it is: " + " ".join(inspection.audit.problems))
    data = dataset.load(inspection, base.image_size)
    study.acquire()
    inspection.save(study.split_path)
    counts = {"train": len(data.train.labels), "validation": len(data.validation.labels)}
    about = {"source": data.source, "hash": data.manifest.hash, "classes": list(data.classes), "counts": counts}
    resolved = SearchSpace.from_dict({**space.to_dict(), "trials": trials})
    constant = baselines.constant_class(data.train.labels, data.validation.labels, data.classes)
    study.begin(resolved, data=about, seed=seed, about=environment.describe())
    study.append("baselines", constant=constant)
    return study, resolved, data


def _resumed(options: Options, console: Console, start_ray: Callable[[], None]) -> tuple[Study, SearchSpace, Any]:
    """Open a study that was begun."""
    if options.study is None:
        known = ", ".join(Study.names()) or "none yet"
        raise StudyError(f"--resume needs --study NAME; studies: {known}.")
    for flag in ("space", "data", "profile", "seed"):
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
    from lungtune.evaluate import baselines

    trainable = catalog.family(space.family)
    base = parameters.build(trainable.Base, space.base)
    trainable.check(base)
    start_ray()
    data = dataset.load(study.split_path, base.image_size)
    if not history.baselines:
        constant = baselines.constant_class(data.train.labels, data.validation.labels, data.classes)
        study.append("baselines", constant=constant)
    if options.trials is not None and options.trials != history.target:
        study.append("target", trials=options.trials)
    return study, space, data


def _search(
    study: Study, space: SearchSpace, data: Any, options: Options, console: Console, started: Future[None]
) -> int:
    from lungtune.search.conductor import Conductor
    from lungtune.tracking import Tracker

    history = study.history()
    conductor = Conductor(study, space, history.study["seed"])
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
    conductor.watchers.append(lambda entry: tracker.start() if entry["event"] in ("report", "end") else None)
    if conductor.finished:
        console.print("the study has all its trials; raise --trials to extend it.")
    else:
        try:
            stopped = _run_trials(conductor, options, console, started)
        except BaseException:
            study.append("stop", why=conductor.stopping or "error", **environment.process())
            raise
    result = summary.write(study, data.validation.patients)
    study.append("summary", best=_headline(result), work=result["work"])
    study.append("stop", why=stopped or "done", **environment.process())
    _conclude(study, space, result, console, time.monotonic() - began)
    tracker.start()
    delivery = tracker.stop(timeout=60.0)
    if not delivery:
        console.print(f"note: {delivery.sentence}", highlight=False, soft_wrap=True)
    if not conductor.finished:
        why = escape(stopped or conductor.stopping)
        resume = f"python scripts/search.py --resume --study {study.name}"
        console.print(f"stopped ({why}). Go on with:\n  {resume}", highlight=False, soft_wrap=True)
        return STOPPED
    return 0 if result["best"] else 1


def _run_trials(conductor: Any, options: Options, console: Console, started: Future[None]) -> str:
    """Run the trials under the live view; return why the search stopped early, or nothing."""
    deadline = time.monotonic() + options.budget if options.budget else None
    if not started.done():
        console.print("starting Ray ...", highlight=False)
    view = live.View(console, conductor.history, conductor.space)
    conductor.watchers.append(view.event)

    def tick() -> None:
        view.tick()
        if deadline is not None and time.monotonic() > deadline:
            conductor.stopping = conductor.stopping or "the time budget is spent"

    with _stopping(conductor):
        started.result()
        from lungtune.search import raytune

        with view:
            raytune.run_trials(conductor, tick)
    if deadline is not None and time.monotonic() > deadline:
        conductor.close_by_budget()
    return str(conductor.stopping)


@contextmanager
def _stopping(conductor: Any) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM stops cleanly, the second at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if conductor.stopping:
            raise KeyboardInterrupt
        conductor.stopping = signal.Signals(number).name
        print("\nstopping: trials end at their last checkpoint (again to stop at once) ...", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _headline(result: Mapping[str, Any]) -> dict[str, Any] | None:
    best = result["best"]
    return None if best is None else {key: best[key] for key in ("trial", "value", "interval", "gain_over_start")}


def _interval(values: Mapping[str, float] | None) -> str:
    if not values or values.get("low") is None:
        return ""
    return f" [{values['low']:.3f}, {values['high']:.3f}]"


def _conclude(study: Study, space: SearchSpace, result: Mapping[str, Any], console: Console, seconds: float) -> None:
    """Print the result and the next commands."""
    out = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    metric, best, start = result["objective"]["metric"], result["best"], result["baselines"]["start"]
    named = {"RUNNING": "unfinished"}
    states = ", ".join(f"{n} {named.get(state, state.lower())}" for state, n in result["states"].items() if n)
    work = result["work"]
    out(f"{states}; {work['passes']:.1f} passes, {100 * work['saved']:.0f} % saved by ASHA; {seconds:.0f} s.")
    if best is None:
        out("no trial has ended with a score yet.")
        return
    chosen = ", ".join(f"{name}={live.short(best['params'][name])}" for name in space.axes)
    out(f"[bold]best: trial {best['trial']}[/bold] at {best['fidelity']:.3g} passes: {chosen}")
    out(f"  validation {metric} {best['value']:.4f}{_interval(best['interval'])} (95 % interval over patients)")
    if best["corrected"]:
        expected = best["corrected"]
        out(f"  on new patients, corrected for choosing the best: {expected['value']:.4f}{_interval(expected)}")
    if start and start["trial"] == best["trial"]:
        out("  that is the source configuration: nothing searched so far is better")
    elif start and best["gain_over_start"]:
        gain, sign = best["gain_over_start"], 1 if result["objective"]["mode"] == "max" else -1
        left = best["corrected"]["value"] - start["value"] if best["corrected"] else gain["value"]
        beyond = gain["low"] is not None and min(sign * gain["low"], sign * gain["high"], sign * left) > 0
        out(
            f"  source configuration (trial {start['trial']}) {start['value']:.4f}; gain {gain['value']:+.4f}"
            f"{_interval(gain)}, {left:+.4f} after the correction: "
            f"{'beyond chance' if beyond else 'not distinguishable from chance'}"
        )
    constant = result["baselines"]["constant"].get(metric)
    if constant is not None:
        out(f"  constant-class baseline {constant:.4f}")
    out("next:")
    out(f"  python scripts/export.py --study {study.name}")
    recipe = paths.home() / "recipes" / f"{study.name}-1.yaml"
    recipe = recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe
    out(f"  python scripts/retrain.py {recipe}   (with --test it opens the locked test set, once per study)")
    out("  python scripts/ui.py")
