"""Output of a search in a pipe: a line per trial and rung, the best score when it changes, regular progress."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, State
from lungtune.search.ui import standing, trial_table
from lungtune.search.ui.standing import Work, short

SILENCE = 30.0
"""Seconds without a line after which the state of the search is printed."""


class PlainLines:
    """Converts a study's journal entries to lines.

    A trial has one line when it pauses at a rung, is perturbed, or ends; a paused one that ends where it paused has
    none.
    """

    def __init__(self, space: SearchSpace, history: History) -> None:
        self.space, self.history = space, history
        self._work = Work(space, history)
        self._printed: set[int] = set()
        self._best = ""
        self._last = time.monotonic()

    def event(self, entry: Mapping[str, Any]) -> Iterator[str]:
        """Yield the lines on one journal entry, which the history already has."""
        kind = entry["event"]
        if kind == "lost":
            what = "the machine failed" if entry.get("fault") else "its host died"
            yield f"trial {entry['trial']:3d}  {what}; it will be tried again ({entry['why'][:80]})"
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
        """Yield the state of the search if there was no line for ``SILENCE`` seconds."""
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
        if trial.number not in self._printed:
            self._printed.add(trial.number)
            parts.append(" ".join(f"{name}={short(value)}" for name, value in trial.sampled.items()))
        return "  ".join(part for part in parts if part)
