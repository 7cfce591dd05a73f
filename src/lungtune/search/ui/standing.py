"""State of a search as text: best trial, baselines, work done, saved and left."""

from __future__ import annotations

import math
import time

from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History, State, Trial
from lungtune.report import formatting
from lungtune.search import tune_schedulers


def short(value: object) -> str:
    """Return a parameter's value as short text; floats have two significant digits."""
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def minutes(seconds: float) -> str:
    """Return a duration as text: ``12 s``, ``3 min 05 s``."""
    whole = int(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def count(history: History) -> str:
    """Return the number of ended trials as text: ``3 of 24 trials ended``."""
    ended = len(history.of(State.COMPLETE, State.PRUNED, State.FAIL))
    return f"{ended} of {history.target} trials ended"


def best(space: SearchSpace, history: History) -> str:
    """Return the best score so far and the baselines as text; empty before the first score."""
    objective = space.objective
    parts, leader = [], history.leader()
    if leader is not None:
        parts.append(f"best {leader.value(objective):.4f} (trial {leader.number})")
    start = _reference(history, leader)
    if start is not None and not math.isnan(start.value(objective)):
        parts.append(f"source configuration {start.value(objective):.4f}")
    for group, scores in history.baselines.items():
        if objective.metric in scores:
            parts.append(f"{formatting.baseline(group)} {scores[objective.metric]:.4f}")
    return " · ".join(parts)


def _reference(history: History, leader: Trial | None) -> Trial | None:
    """Return the trial of the source configuration; of several spaces, that of the leader's space."""
    starts = [history.trials[number] for number in history.starts]
    own = [t for t in starts if leader is not None and t.params.get(SPACE) == leader.params.get(SPACE)]
    return next((trial.as_begun() for trial in own or starts), None)


class Work:
    """Passes trained, saved and left; the rate is measured since this object was created."""

    def __init__(self, space: SearchSpace, history: History) -> None:
        self.space, self.history = space, history
        self._began, self._before = time.monotonic(), history.work

    def text(self) -> str:
        """Return one line: passes, share saved by early stopping (paused trials excluded), time, time left."""
        done, ended = self.history.work, self.history.counted_for_savings()
        elapsed = time.monotonic() - self._began
        planned = self._expected(ended)
        parts = [f"{done:.1f} of about {planned:.0f} passes"]
        saved = sum(self.space.fidelity.max - trial.fidelity for trial in ended)
        full = saved + sum(trial.work for trial in ended)
        if saved > 0:
            parts.append(f"{100 * saved / full:.0f} % saved by early stopping")
        parts.append(minutes(elapsed))
        rate = (done - self._before) / elapsed if elapsed > 0 else 0.0
        if rate > 0 and planned > done:
            parts.append(f"about {minutes((planned - done) / rate)} left")
        return " · ".join(parts)

    def _expected(self, ended: list[Trial]) -> float:
        """Return the expected passes of the whole search: planned at first, later from the mean of ended trials."""
        history = self.history
        if len(ended) < 4 or history.of(State.PAUSED):  # paused trials may be resumed
            planned = tune_schedulers.planned(self.space, history.target)
            return max(history.work, sum(passes for _, _, passes in planned))
        mean = sum(trial.work for trial in ended) / len(ended)
        running = sum(max(mean - trial.work, 0.0) for trial in history.of(State.RUNNING))
        return history.work + running + mean * max(0, history.target - len(history.trials))
