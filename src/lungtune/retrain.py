"""From a recipe to weights and an honest report, with the same session and loop as the search."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from lungtune import catalog
from lungtune.core import environment, paths, recipe
from lungtune.core import params as parameters
from lungtune.core.journal import write_atomic
from lungtune.core.ledger import Ledger
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.errors import CheckpointError, DataError, SpaceError, StudyError, TrialError, did_you_mean
from lungtune.evaluate import metrics, report

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection, Part
    from lungtune.training import Session

PACKED = 8
"""At most this many seeds train together."""


@dataclass(frozen=True)
class RetrainReport:
    """What a retraining produced.

    Attributes:
        folder: holds ``report.json``, ``report.md``, ``weights/`` and a copy of the recipe.
        content: what ``report.json`` holds.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def reproduced(self) -> str:
        """``yes``, ``no``, or ``not compared`` (the recipe was edited)."""
        return str(self.content["reproduction"]["reproduced"])

    @property
    def weights(self) -> Path:
        """The folder of the weights that load without lungtune."""
        return self.folder / "weights"


@dataclass
class _Run:
    """One seed's training."""

    seed: int
    folder: Path
    value: float | None = None
    failure: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    adapter: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return what the report says of this run."""
        return {"seed": self.seed, "value": self.value, "failure": self.failure, "metrics": self.scores, "test": None}


def retrain(
    path: Path, seeds: int = 1, test: bool = False, out: Path | None = None, data: str | None = None
) -> RetrainReport:
    """Train a recipe to the fidelity its score was searched at; write weights and a report.

    An interrupted retraining goes on from its checkpoints when it is called again.

    Args:
        path: the recipe.
        seeds: how many runs: the recipe's seed, then the ones after it. The weights are those of the first.
        test: open the locked test set, once per study.
        out: folder; by default ``models/<recipe's name>`` in lungtune's home.
        data: the data source, when it lies elsewhere than the recipe says. It must hold the same split.

    Raises:
        SpaceError: the recipe has mistakes or is none.
        DataError: the data have problems, or are not those the recipe was searched on.
        WeightsError: pretrained weights cannot be had.
        StudyError: the test set was opened before, or another process writes to ``out``.
        TrialError: the run of the recipe's own seed failed.
        CheckpointError: a trained model can't be read back to score the test set, which stays locked.
    """
    space, origin = load(path)
    if seeds < 1:
        raise StudyError(f"--seeds >= 1 must hold, but got {seeds}.")
    trainable = catalog.family(space.family)
    base = parameters.build(trainable.Base, space.base)
    trainable.check(base)
    mark = recipe.fingerprint(space, origin.fidelity, origin.split)
    folder = out or paths.home() / "models" / path.stem
    ledger = _ledger(path, origin)
    with ExitStack() as held:
        if test:
            held.enter_context(ledger.hold(mark))
        inspection = _inspect(space, origin, data, test)
        held.enter_context(_owned(folder))  # made only now: a refusal leaves no folder behind

        from lungtune.data.dataset import load as open_dataset
        from lungtune.training import Session

        dataset = open_dataset(inspection, base.image_size)

        assert space.seed is not None  # provenance made sure
        numbers = range(space.seed, space.seed + seeds)
        runs = [_Run(number, folder / "work" / mark / str(number)) for number in numbers]
        session = Session(trainable, base, dataset, space.fidelity, space.objective, slots=min(seeds, PACKED))
        session.alone(space.fixed)
        for first in range(0, seeds, PACKED):
            _train(session, space, runs[first : first + PACKED], origin.fidelity)
        if runs[0].failure is not None:
            raise TrialError("error", f"the run of the recipe's seed {runs[0].seed} failed: {runs[0].failure}")
        _weights(trainable, base, space, dataset, runs[0], folder)
        part, rows = dataset.validation, [run.row() for run in runs]
        predictions = {"validation": report.Predictions(part.case_ids, part.labels, runs[0].probabilities)}
        section = report.section(
            part.labels, runs[0].probabilities, part.patients, dataset.classes, dataset.train.labels
        )
        about = {"recipe": path.name, "fingerprint": mark, "weights": str(folder / "weights")}
        about["data"] = {"source": inspection.source, "split": origin.split, "classes": list(dataset.classes)}
        about["versions"] = environment.describe()["versions"]
        content = report.content(space, origin, about, rows, section)
        if test:
            for run in (run for run in runs if run.failure is None):  # before anything is opened
                _resume(session, space, run, origin.fidelity)
                session.leave(run.seed)
            ledger.opened(mark, path.name)
            locked = open_dataset(inspection, base.image_size, test=True).test
            predictions["test"] = _test(session, space, locked, runs, origin.fidelity, content)
        report.write(folder, content, predictions)
        write_atomic(folder / "recipe.yaml", path.read_bytes())
        if test:
            scores = {name: value["value"] for name, value in content["test"]["metrics"].items()}
            ledger.result(mark, path.name, scores, folder)
        shutil.rmtree(folder / "work", ignore_errors=True)
    return RetrainReport(folder, content)


def load(path: Path) -> tuple[SearchSpace, recipe.Provenance]:
    """Read a recipe with the loader of search spaces.

    Raises:
        SpaceError: there is no such file, it has mistakes (all are named), or it is not a recipe.
    """
    if not path.is_file():
        near = {other.name for other in path.parent.glob("*.yaml")} if path.parent.is_dir() else set()
        raise SpaceError(f"there is no recipe {path}.{did_you_mean(path.name, near)}")
    space = catalog.space(str(path))
    return space, recipe.provenance(space, path)


def _ledger(path: Path, origin: recipe.Provenance) -> Ledger:
    """Return the study's ledger; beside the recipe where the study is not on this machine."""
    beside = path.resolve().parent / "ledger.jsonl"
    try:
        study = Study.open(origin.study)
        if study.history().study["id"] == origin.study_id:
            return Ledger(study.ledger_path, origin.study_id, origin.study, also=[beside])
    except StudyError:
        pass
    return Ledger(beside, origin.study_id, origin.study)


def _inspect(space: SearchSpace, origin: recipe.Provenance, source: str | None, test: bool) -> Inspection:
    """Find the data again and make sure that they are split as they were; decodes nothing for the model."""
    from lungtune.data import dataset

    source = source or space.data or "phantom"
    found = dataset.inspect(source, seed=origin.split_seed)
    if found.audit.problems:
        raise DataError("the data can't be trained on as it is: " + " ".join(found.audit.problems))
    if not found.manifest.matches(origin.split):
        raise DataError(
            f"{source} must hold the split the recipe was searched on ({origin.split[:12]}), but holds "
            f"{found.manifest.hash[:12]}: images, labels or patients differ, so scores can't be compared. "
            f"If the data lie elsewhere, name them with --data."
        )
    if test and not len(found.manifest.parts["test"]):
        raise DataError(f"{source} has no test part; leave out --test.")
    return found


def _train(session: Session, space: SearchSpace, runs: list[_Run], fidelity: float) -> None:
    """Train runs together up to ``fidelity`` passes; fill in their scores, predictions and adapters."""
    for run in runs:
        session.start(run.seed, space.fixed, run.seed, run.folder)
    open_runs = {run.seed: run for run in runs}
    with _bar(f"training {len(runs)} seed{'s' * (len(runs) > 1)}", fidelity) as told:
        while open_runs:
            for number, due in session.step():
                run = open_runs[number]
                if isinstance(due, TrialError):
                    run.failure = str(due)
                elif due.fidelity >= fidelity - 1e-6:
                    slot = session.runs[number].slot
                    run.probabilities = session.predict(number, session.dataset.validation).numpy()
                    run.adapter = session.pack.adapter(slot)
                    run.scores = {key: float(value) for key, value in due.metrics.items()}
                    run.value = run.scores[space.objective.metric]
                else:
                    continue
                session.leave(number)
                del open_runs[number]
            done = [session.pack.samples(session.runs[number].slot) for number in open_runs]
            told(min(done) / len(session.dataset.train.labels) if done else fidelity)


def _test(
    session: Session, space: SearchSpace, part: Part | None, runs: list[_Run], fidelity: float, content: dict[str, Any]
) -> report.Predictions:
    """Score every seed's model on the test part; return the first one's predictions."""
    assert part is not None
    data, metric = session.dataset, space.objective.metric
    first = np.empty(0)
    for run, row in zip(runs, content["runs"], strict=True):
        if run.failure is None:
            _resume(session, space, run, fidelity)
            predicted = session.predict(run.seed, part).numpy()
            session.leave(run.seed)
            first = predicted if run is runs[0] else first
            row["test"] = metrics.classification(part.labels, predicted, data.classes)[metric]
    content["test"] = report.section(part.labels, first, part.patients, data.classes, data.train.labels)
    content["test_spread"] = report.spread([row["test"] for row in content["runs"] if row["test"] is not None])
    return report.Predictions(part.case_ids, part.labels, first)


def _resume(session: Session, space: SearchSpace, run: _Run, fidelity: float) -> None:
    """Let a trained run join again as it ended; an older checkpoint, or none, will not do.

    Raises:
        CheckpointError: its newest checkpoint is lost or damaged.
    """
    session.start(run.seed, space.fixed, run.seed, run.folder, known=fidelity)
    reached = session.runs[run.seed].fidelity
    if abs(reached - fidelity) > 1e-6:
        session.leave(run.seed)
        raise CheckpointError(
            f"seed {run.seed} must go on from {fidelity:g} passes to be scored on the test set, but its newest sound "
            f"checkpoint in {run.folder} is from {reached:g}. Run the same command again: it trains the rest."
        )


def _weights(trainable: Any, base: Any, space: SearchSpace, dataset: Dataset, run: _Run, folder: Path) -> None:
    """Write the weights beside their place, then put them in it."""
    draft, place = folder / ".weights.draft", folder / "weights"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    values = parameters.build(trainable.Params, space.fixed)
    trainable.export(base, values, dataset.classes, run.adapter, draft)
    if place.exists():
        shutil.rmtree(place)
    os.replace(draft, place)


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Be the only process that writes to ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StudyError(
            f"another process is retraining into {folder}; wait for it or choose another --out."
        ) from error
    except OSError as error:
        raise StudyError(f"{folder} must be writable, but: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _bar(what: str, total: float) -> Iterator[Any]:
    """Show passes done on a terminal, one line in a pipe; yield the function that is told them."""
    if not sys.stderr.isatty():
        print(f"{what}: {total:g} passes ...", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.1f}/{task.total:g} passes"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=min(done, total))
