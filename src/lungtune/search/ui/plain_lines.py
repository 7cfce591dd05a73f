"""What a search says in a pipe: one line a trial and rung, the best when it changes, and a sign of life."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, State
from lungtune.search.ui import standing, trial_table
from lungtune.search.ui.standing import Work, short

SILENCE = 30.0
"""Seconds without a line after which the state of the search is told."""


class PlainLines:
    """Turns a study's events into lines.

    A trial has one line when it pauses at a rung, is perturbed, or ends; a paused one that ends where it paused has
    none.
    """

    def __init__(self, space: SearchSpace, history: History) -> None:
        self.space, self.history = space, history
        self._work = Work(space, history)
        self._told: set[int] = set()
        self._best = ""
        self._last = time.monotonic()

    def event(self, entry: Mapping[str, Any]) -> Iterator[str]:
        """Yield the lines on one journal entry (the history has it already)."""
        kind = entry["event"]
        if kind == "lost":
            yield f"trial {entry['trial']:3d}  its host died; it will be tried again ({entry['why'][:80]})"
        elif kind == "perturb":
            yield self._perturbed(entry)
        elif kind == "pause" or (kind == "end" and not self._was_paused(entry)):
            yield self._trial(entry)
            best = standing.best(self.space, self.history)
            if best != self._best:
                self._best = best
                yield best
        else:
            return
        self._last = time.monotonic()

    def silence(self) -> Iterator[str]:
        """Yield how far the search is, when no line came for a while."""
        if time.monotonic() - self._last > SILENCE:
            self._last = time.monotonic()
            running, paused = (len(self.history.of(state)) for state in (State.RUNNING, State.PAUSED))
            yield f"{standing.count(self.history)}, {running} running, {paused} paused · {self._work.text()}"

    def _perturbed(self, entry: Mapping[str, Any]) -> str:
        trial = self.history.trials[entry["trial"]]
        before = trial.stretches[-2].lineage[-1].params
        changed = [f"{name}={short(value)}" for name, value in trial.params.items() if before.get(name) != value]
        took = f"trial {trial.number:3d}  goes on from trial {entry['donor']} at {entry['donor_fidelity']:.3g} passes"
        return "  ".join([took, " ".join(changed)]).rstrip()

    def _was_paused(self, entry: Mapping[str, Any]) -> bool:
        trial = self.history.trials[entry["trial"]]
        return trial.state is State.PRUNED and bool(trial.reports) and trial.paused == trial.fidelity

    def _trial(self, entry: Mapping[str, Any]) -> str:
        trial = self.history.trials[entry["trial"]]
        score = trial_table.score(trial, self.space)
        parts = [f"trial {trial.number:3d}", f"{trial.fidelity:.3g} passes"]
        parts += [f"{self.space.objective.metric} {score}"] if score else []
        reason = f" ({entry['reason']})" if entry.get("reason") else ""
        parts.append("paused" if entry["event"] == "pause" else f"{entry['state'].lower()}{reason}")
        if trial.state is State.FAIL and trial.message:
            parts.append(trial.message.strip().splitlines()[-1][:120])
        if trial.number not in self._told:
            self._told.add(trial.number)
            parts.append(" ".join(f"{name}={short(value)}" for name, value in trial.sampled.items()))
        return "  ".join(part for part in parts if part)
