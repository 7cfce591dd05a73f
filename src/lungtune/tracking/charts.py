"""Optuna's charts of a study on one page, and the figures of the best trials."""

from __future__ import annotations

import html
import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune import summary
from lungtune.core.task import Task
from lungtune.core.trial import History, Trial
from lungtune.errors import SpaceError
from lungtune.tasks import stored_predictions
from lungtune.tracking.projection import STUDY, Projection
from lungtune.tracking.writer import Writer

if TYPE_CHECKING:
    import optuna

BEST = 3
"""Number of best trials that get figures."""

SHARE = 2 / 3
"""Charts of parameters compare trials at the largest fidelity that this share of the scored trials reached."""

PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; margin: 24px; color: #222 }} h2 {{ font-size: 17px; margin: 28px 0 0 }}
p {{ margin: 4px 0 8px; color: #555; max-width: 60em }}</style></head><body><h1>{title}</h1>{body}</body></html>"""


def deliver(folder: Path, projection: Projection, writer: Writer) -> bool:
    """Store the study's documents, charts and figures that are new; False when one did not get through."""
    for name in ("split.json", "summary.json", "leaderboard.md", "synthetic.png"):
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        if not writer.put_file(STUDY, name, content):
            return False
    history = projection.history
    version = sum(view.events for view in projection.runs.values())
    drawn = len(history.ranked()) < 2 or writer.sent[STUDY].files.get("plots.html") == version
    if not drawn and not writer.put_file(STUDY, "plots.html", page(history).encode(), version):
        return False
    for trial in history.ranked()[:BEST]:
        best, key = trial.best(history.objective), str(trial.number)
        version = zlib.crc32(str(best).encode())
        task = _task(history)
        last = task.shown[-1:] if task else ()  # where it is, all are
        if any(writer.sent[key].files.get(f"figures/{name}") == version for name in last):
            continue
        for name, content in figures(folder, history, trial):
            if not writer.put_file(key, name, content, version):
                return False
    return True


def page(history: History) -> str:
    """Return the charts as one HTML page that works offline; the plotly library is in it once."""
    sections, library = [], True
    for title, explanation, figure in _charts(history):
        name = "chart-" + title.lower().replace(" ", "-")
        body = figure.to_html(full_html=False, include_plotlyjs=library, div_id=name, default_height="520px")
        sections.append(f"<h2>{html.escape(title)}</h2><p>{html.escape(explanation)}</p>{body}")
        library = False
    return PAGE.format(title=html.escape(str(history.study["name"])), body="".join(sections) or "<p>No scores yet.</p>")


def figures(folder: Path, history: History, trial: Trial) -> Iterator[tuple[str, bytes]]:
    """Yield a trial's figures, drawn from its best checkpoint; none if that is gone or holds no predictions.

    The evaluator's picture is ``<checkpoint>.png``, if there is one.
    """
    best, task = trial.best(history.objective), _task(history)
    if best is None or not best.checkpoint or task is None:
        return
    path = folder / best.checkpoint
    predictions = stored_predictions.load(path, task)
    if predictions is None:
        return
    classes = [str(name) for name in history.study["data"]["classes"]]
    title = f"trial {trial.number:03d}: {history.objective.metric} {trial.value(history.objective):.3f}"
    try:
        for name, png in predictions.figures(title, classes):
            yield f"figures/{name}", png
    except ValueError:  # predictions of another study's classes
        return
    if task.picture and (picture := path.with_suffix(".png")).is_file():
        yield f"figures/{task.picture}", picture.read_bytes()


def _task(history: History) -> Task | None:
    """Return the task of a study's objective; None where its family is gone."""
    try:
        return summary.task_of(history)
    except SpaceError:
        return None


def common_fidelity(history: History) -> float:
    """Return the largest fidelity that most scored trials reached, at which charts compare them."""
    reached = sorted((t.fidelity for t in history.ranked()), reverse=True)
    return reached[min(len(reached) - 1, math.ceil(len(reached) * SHARE) - 1)] if reached else 0.0


def _charts(history: History) -> Iterator[tuple[str, str, Any]]:
    import optuna
    from optuna import visualization as draw

    from lungtune import optuna_study

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        metric, level = history.objective.metric, common_fidelity(history)
        whole, equal = optuna_study.for_charts(history), optuna_study.for_charts(history, level)
        count = len(equal.get_trials(states=(optuna.trial.TrialState.COMPLETE,)))
        fair = f"All {count} trials that trained for {level:.3g} passes, by their best {metric} up to there"
        label: dict[str, Any] = {"target_name": metric}
        charts: list[tuple[str, str, Callable[[], Any], bool]] = [
            ("History", f"Best {metric} of every finished trial; stopped ones have seen less data.",
             lambda: draw.plot_optimization_history(_all_complete(whole), **label), len(whole.trials) > 0),
            ("Learning curves", f"{metric} against samples seen, stopped trials included.",
             lambda: draw.plot_intermediate_values(whole), len(whole.trials) > 0),
            ("Importance", f"{fair}. With few trials this is a hint, no more.",
             lambda: draw.plot_param_importances(equal, **label), count > 3),
            ("Parallel coordinates", f"{fair}.", lambda: draw.plot_parallel_coordinate(equal, **label), count > 1),
            ("Slices", f"{fair}.", lambda: draw.plot_slice(equal, **label), count > 1),
        ]  # fmt: skip
        for title, explanation, make, enough in charts:
            if not enough:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    figure = make()
                except (ValueError, RuntimeError, ZeroDivisionError):  # all scores equal, one value per parameter, ...
                    continue
            yield title, explanation, figure
    finally:
        optuna.logging.set_verbosity(verbosity)


def _all_complete(study: optuna.Study) -> optuna.Study:
    """The same trials, all COMPLETE: Optuna's history chart leaves others out."""
    import copy

    import optuna

    twin = optuna.create_study(direction=study.direction, study_name=study.study_name)
    for trial in study.trials:
        trial = copy.copy(trial)
        if trial.value is None and trial.intermediate_values:
            trial.value = (max if study.direction.name == "MAXIMIZE" else min)(trial.intermediate_values.values())
        if trial.value is not None:
            trial.state = optuna.trial.TrialState.COMPLETE
        twin.add_trial(trial)
    return twin
