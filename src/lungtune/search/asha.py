"""Asynchronous successive halving, rebuilt from a journal at any time.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from enum import Enum

from lungtune.core.fidelity import TOLERANCE, Fidelity
from lungtune.core.scheduler import Scheduler
from lungtune.core.trial import Objective, State, Trial


class Verdict(Enum):
    """What becomes of a trial after a report."""

    GO_ON = "go on"
    PAUSE = "pause"
    STOP = "stop"


class Asha:
    """Compares trials at rungs; its whole state is the reports it was shown, in their order.

    Two modes (``Scheduler.mode``): *stop* ends a trial that is not among the best ``1 / eta`` of all that came to
    its rung before; *promote* pauses every trial at a rung, and :meth:`promotable` names the one to resume. Unlike
    Ray Tune's scheduler of the same name, a score that is not finite is never recorded and never goes on, and a
    trial is judged by its best report so far.
    """

    def __init__(self, fidelity: Fidelity, objective: Objective, scheduler: Scheduler) -> None:
        self.eta = fidelity.eta
        self.objective = objective
        self.promotes = scheduler.mode == "promote"
        self.rungs: dict[float, dict[int, float]] = {}
        if scheduler.name == "asha":
            self.rungs = {rung: {} for rung in fidelity.rungs}
        self._ranked: dict[float, list[tuple[float, int, int]]] = {rung: [] for rung in self.rungs}

    def judge(self, trial: int, fidelity: float, best: float) -> Verdict:
        """Record a trial that reached ``fidelity`` with ``best`` as its score so far; return what becomes of it.

        Between rungs, and where a rung was passed already, it goes on. At a rung it pauses (promote), or goes on if
        it is no worse than the top ``1 / eta`` of all that came there before; the first to come always does (stop).
        """
        if not math.isfinite(best):
            return Verdict.STOP
        for rung in reversed(self.rungs):
            recorded = self.rungs[rung]
            if fidelity < rung - TOLERANCE:
                continue
            if trial in recorded:
                return Verdict.GO_ON
            before = list(recorded.values())
            recorded[trial] = best
            insort(self._ranked[rung], (-best if self.objective.mode == "max" else best, len(before), trial))
            if self.promotes:
                return Verdict.PAUSE
            goes_on = not before or not self.objective.better(self._cutoff(before), best)
            return Verdict.GO_ON if goes_on else Verdict.STOP
        return Verdict.GO_ON

    def _cutoff(self, scores: list[float]) -> float:
        """Return the score that separates the best ``1 / eta`` (linear interpolation, as a percentile)."""
        ordered = sorted(scores, reverse=self.objective.mode == "min")
        position = (1 - 1 / self.eta) * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)

    def promotable(self, trials: Mapping[int, Trial], least: int = 0) -> int | None:
        """Return the paused trial to resume next, from the highest rung that has one; None when there is none.

        A paused trial goes on when it is among the best ``1 / eta`` of its rung (of the best ``least`` at least).
        It competes with those paused there and those that went on; failed ones and ones that ended there are out.

        Args:
            trials: every trial by number, in its present state.
            least: how many each rung lets go on however few came there: 1 when no more trials will come.
        """
        for rung in reversed(self.rungs):
            left = max(least, math.floor(len(self.rungs[rung]) / self.eta))
            for _, _, number in self._ranked[rung]:
                if left <= 0:
                    break
                trial = trials[number]
                here = trial.fidelity < rung + TOLERANCE
                if trial.state is State.FAIL or (here and trial.state is State.PRUNED):
                    continue
                if here and trial.state is State.PAUSED:
                    return number
                left -= 1
        return None
