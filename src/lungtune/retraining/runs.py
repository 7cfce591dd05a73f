"""Runs of a recipe: trained to the fidelity of the searched score, and reopened for scoring.

A run's predictions are stored by task: ``{task: {name: array}}``, as ``Session.predict`` returns them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.comparison import shown
from lungtune.core.io import progress
from lungtune.core.space import SearchSpace
from lungtune.errors import CheckpointError, TrialError

if TYPE_CHECKING:
    import numpy as np

    from lungtune.core.family import Family
    from lungtune.data.dataset import Part
    from lungtune.engine.session import Session

PACKED = 8
"""At most this many runs train together."""


@dataclass
class Run:
    """One seed's training; ``prediction`` is that of the validation part, ``tested`` of the test part.

    It trains with the recipe's parameters, ``changed`` apart. ``number`` is its own among those that train together.
    """

    seed: int
    folder: Path
    number: int = -1
    changed: Mapping[str, Any] = field(default_factory=dict)
    value: float | None = None
    failure: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    prediction: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    tested: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.number = self.seed if self.number < 0 else self.number

    def __str__(self) -> str:
        return f"seed {self.seed}" + "".join(f", {name} {shown(value)}" for name, value in self.changed.items())

    def row(self) -> dict[str, Any]:
        """Return the report entry of this run."""
        return {"seed": self.seed, "value": self.value, "failure": self.failure, "metrics": self.scores, "test": None}


@dataclass(frozen=True)
class _Stage:
    """A segment of a run: parameters, seed, passes at which it ends, folder of its checkpoints."""

    params: Mapping[str, Any]
    seed: int
    until: float
    folder: Path


def _stages(space: SearchSpace, run: Run, fidelity: float) -> list[_Stage]:
    """Return the segments of a run; all seeds are shifted by as much as the run's is from the recipe's."""
    shift = run.seed - (space.seed or 0)
    before = [
        _Stage({**each.params, **run.changed}, each.seed + shift, each.until or 0.0, run.folder / f"segment-{number}")
        for number, each in enumerate(space.segments)
    ]
    return [*before, _Stage({**space.fixed, **run.changed}, run.seed, fidelity, run.folder)]


def room(family: Family[Any, Any], count: int) -> int:
    """Return the number of ``count`` runs that train together: 1 where a family gains nothing from packs."""
    return min(count, PACKED) if family.packs else 1


def train(session: Session, space: SearchSpace, runs: list[Run], fidelity: float, what: str = "") -> None:
    """Train runs up to ``fidelity`` passes, as many at once as the session has slots; fill in their results.

    The segments of a recipe are trained one after another, each from the checkpoint that the one before left.
    """
    size = session.pack.capacity
    for first in range(0, len(runs), size):
        some = runs[first : first + size]
        named = what or f"training {len(runs)} seed{'s' * (len(runs) > 1)}"
        done = f", {first + 1} to {first + len(some)} of {len(runs)}" if len(runs) > size else ""
        _together(session, space, some, fidelity, named + done)


def _together(session: Session, space: SearchSpace, runs: list[Run], fidelity: float, what: str) -> None:
    left = {run.number: _begun(_stages(space, run, fidelity)) for run in runs}
    for number, stages in left.items():
        session.start(number, stages[0].params, stages[0].seed, stages[0].folder)
    open_runs = {run.number: run for run in runs}
    with progress(what, fidelity, unit="passes") as update:
        while open_runs:
            for number, due in session.step():
                run = open_runs[number]
                if isinstance(due, TrialError):
                    run.failure = str(due)
                elif isinstance(due, Exception):
                    raise due
                elif len(left[number]) > 1:
                    if due.fidelity >= left[number][0].until - 1e-6:
                        left[number] = _passed_on(session, number, left[number], Path(due.checkpoint or ""))
                    continue
                elif due.fidelity >= fidelity - 1e-6:
                    slot = session.runs[number].slot
                    run.prediction = session.predict(number, session.dataset.validation)
                    run.adapter = {} if run.changed else session.pack.adapter(slot)
                    run.scores = {key: float(value) for key, value in due.metrics.items()}
                    run.value = run.scores.get(space.objective.metric)
                    if run.value is None:
                        run.failure = f"no validation case allows {space.objective.metric}"
                else:
                    continue
                session.leave(number)
                del open_runs[number]
            done = [session.pack.samples(session.runs[number].slot) for number in open_runs]
            update(min(done) / len(session.dataset.train) if done else fidelity)


def _begun(stages: list[_Stage]) -> list[_Stage]:
    """Return the stages from the last one on that has a checkpoint."""
    from lungtune.engine import report_files

    for place in range(len(stages) - 1, 0, -1):
        with contextlib.suppress(CheckpointError):
            if report_files.latest(stages[place].folder) is not None:
                return stages[place:]
    return stages


def _passed_on(session: Session, number: int, stages: list[_Stage], checkpoint: Path) -> list[_Stage]:
    """Go on with a run's next stage from the checkpoint of the first; return the stages that are left."""
    from lungtune.engine import report_files

    following = stages[1]
    session.leave(number)
    report_files.inherit(checkpoint, following.folder)
    session.start(number, following.params, following.seed, following.folder)
    return stages[1:]


def resume(session: Session, space: SearchSpace, run: Run, fidelity: float) -> None:
    """Reopen a trained run at its last report, from its newest checkpoint.

    Raises:
        CheckpointError: its newest checkpoint is lost, damaged, or of an earlier report.
    """
    session.start(run.number, {**space.fixed, **run.changed}, run.seed, run.folder, known=fidelity)
    reached = session.runs[run.number].fidelity
    if abs(reached - fidelity) > 1e-6:
        session.leave(run.number)
        raise CheckpointError(
            f"{run} must go on from {fidelity:g} passes to be scored on the test set, but its newest sound "
            f"checkpoint in {run.folder} is from {reached:g}. Run the same command again: it trains the rest."
        )


def check_resumable(session: Session, space: SearchSpace, runs: list[Run], fidelity: float) -> None:
    """Verify, before the test set opens, that every run that has not failed can be scored on it.

    Raises:
        CheckpointError: see :func:`resume`.
    """
    for run in (run for run in runs if run.failure is None):
        resume(session, space, run, fidelity)
        session.leave(run.number)


def score(session: Session, space: SearchSpace, run: Run, part: Part, fidelity: float) -> None:
    """Fill in a trained run's predictions of the test part."""
    resume(session, space, run, fidelity)
    run.tested = session.predict(run.number, part)
    session.leave(run.number)


def forget(work: Path) -> None:
    """Remove the checkpoints of runs whose report is written."""
    shutil.rmtree(work, ignore_errors=True)
