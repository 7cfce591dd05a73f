"""Trains the runs of a recipe to where its score was searched, and lets them join again to be scored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.space import SearchSpace
from lungtune.errors import CheckpointError, TrialError

if TYPE_CHECKING:
    from lungtune.training import Session


@dataclass
class Run:
    """One seed's training; ``prediction`` is that of the validation part."""

    seed: int
    folder: Path
    value: float | None = None
    failure: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    prediction: dict[str, np.ndarray] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return what the report says of this run."""
        return {"seed": self.seed, "value": self.value, "failure": self.failure, "metrics": self.scores, "test": None}


def train(session: Session, space: SearchSpace, runs: list[Run], fidelity: float, what: str = "") -> None:
    """Train runs together up to ``fidelity`` passes; fill in their scores, predictions and adapters."""
    for run in runs:
        session.start(run.seed, space.fixed, run.seed, run.folder)
    open_runs = {run.seed: run for run in runs}
    with _bar(what or f"training {len(runs)} seed{'s' * (len(runs) > 1)}", fidelity) as told:
        while open_runs:
            for number, due in session.step():
                run = open_runs[number]
                if isinstance(due, TrialError):
                    run.failure = str(due)
                elif due.fidelity >= fidelity - 1e-6:
                    slot = session.runs[number].slot
                    run.prediction = session.judge(number, session.dataset.validation)
                    run.adapter = session.pack.adapter(slot)
                    run.scores = {key: float(value) for key, value in due.metrics.items()}
                    run.value = run.scores[space.objective.metric]
                else:
                    continue
                session.leave(number)
                del open_runs[number]
            done = [session.pack.samples(session.runs[number].slot) for number in open_runs]
            told(min(done) / len(session.dataset.train.labels) if done else fidelity)


def resume(session: Session, space: SearchSpace, run: Run, fidelity: float) -> None:
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
