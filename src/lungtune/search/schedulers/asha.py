"""Asynchronous successive halving, rebuilt from a journal at any time.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from enum import Enum
from itertools import islice

from lungtune.core.resource import TOLERANCE, Fidelity
from lungtune.core.scheduler import Scheduler
from lungtune.core.trial import Objective, State, Trial


class Decision(Enum):
    """What becomes of a trial after a report."""

    CONTINUE = "go on"
    PAUSE = "pause"
    STOP = "stop"


class Asha:
    """Compares trials at rungs; its whole state is the reports it was shown, in their order.

    Two modes (``Scheduler.mode``): *stop* ends a trial that is not among the best ``1 / eta`` of all that came to
    its rung before; *promote* pauses every trial at a rung, and :meth:`promotable` names the one to resume.

    Random trials and those a model chose are compared among themselves only: a model that has fallen for what looks
    good early fills the rungs with it, and would keep everything else from ever going on. Unlike Ray Tune's scheduler
    of the same name, a score that is not finite is never recorded and never goes on, and a trial is judged by its
    best report so far.
    """

    def __init__(self, fidelity: Fidelity, objective: Objective, scheduler: Scheduler) -> None:
        self.eta = fidelity.eta
        self.objective = objective
        self.promotes = scheduler.mode == "promote"
        self.rungs: dict[float, dict[int, float]] = {}
        if scheduler.name == "asha":
            self.rungs = {rung: {} for rung in fidelity.rungs}
        self._ranked: dict[tuple[float, bool], list[tuple[float, int, int]]] = {
            (rung, random): [] for rung in self.rungs for random in (False, True)
        }

    def judge(self, trial: int, fidelity: float, best: float, random: bool = False) -> Decision:
        """Record a trial that reached ``fidelity`` with ``best`` as its score so far; return what becomes of it.

        Between rungs, and where a rung was passed already, it goes on. At a rung it pauses (promote), or goes on if
        it is no worse than the top ``1 / eta`` of all that came there before; the first to come always does (stop).
        """
        if not math.isfinite(best):
            return Decision.STOP
        for rung in reversed(self.rungs):
            recorded = self.rungs[rung]
            if fidelity < rung - TOLERANCE:
                continue
            if trial in recorded:
                return Decision.CONTINUE
            ranked = self._ranked[rung, random]
            before = [recorded[number] for _, _, number in ranked]
            insort(ranked, (-best if self.objective.mode == "max" else best, len(recorded), trial))
            recorded[trial] = best
            if self.promotes:
                return Decision.PAUSE
            goes_on = not before or not self.objective.better(self._cutoff(before), best)
            return Decision.CONTINUE if goes_on else Decision.STOP
        return Decision.CONTINUE

    def _cutoff(self, scores: list[float]) -> float:
        """Return the score that separates the best ``1 / eta`` (linear interpolation, as a percentile)."""
        ordered = sorted(scores, reverse=self.objective.mode == "min")
        position = (1 - 1 / self.eta) * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)

    def promotable(self, trials: Mapping[int, Trial], last: bool = False) -> int | None:
        """Return the paused trial to resume next, from the highest rung that has one; None when there is none.

        A paused trial goes on when it is among the best ``1 / eta`` of its rung and kind. It competes with those
        paused there and those that went on; failed ones and ones that ended there are out.

        Args:
            trials: every trial by number, in its present state.
            last: no more trials will come; the best of each rung goes on however few came there.
        """
        for rung in reversed(self.rungs):
            kinds = [self._ranked[rung, random] for random in (False, True)]
            groups = [(ranked, math.floor(len(ranked) / self.eta)) for ranked in kinds]
            if last:
                groups.append((sorted(kinds[0] + kinds[1]), 1))
            for ranked, places in groups:
                competing = (trials[number] for _, _, number in ranked if self._competes(trials[number], rung))
                for trial in islice(competing, places):
                    if trial.state is State.PAUSED and trial.fidelity < rung + TOLERANCE:
                        return trial.number
        return None

    @staticmethod
    def _competes(trial: Trial, rung: float) -> bool:
        ended_here = trial.state is State.PRUNED and trial.fidelity < rung + TOLERANCE
        return trial.state is not State.FAIL and not ended_here
