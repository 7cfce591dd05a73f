"""Asynchronous successive halving, the stopping kind, rebuilt from a journal at any time.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from __future__ import annotations

import math

from lungtune.core.fidelity import TOLERANCE, Fidelity
from lungtune.core.trial import Objective


class Asha:
    """Compares trials at rungs; its whole state is the reports it was shown, in their order.

    Unlike Ray Tune's scheduler of the same name, a score that is not finite is never recorded and never goes on,
    and a trial is judged by its best report so far.
    """

    def __init__(self, fidelity: Fidelity, objective: Objective) -> None:
        self.fidelity = fidelity
        self.objective = objective
        self.rungs: dict[float, dict[int, float]] = {rung: {} for rung in fidelity.rungs}

    def goes_on(self, trial: int, fidelity: float, best: float) -> bool:
        """Record a trial that reached ``fidelity`` with ``best`` as its score so far; return whether it goes on.

        At a rung it goes on if it is no worse than the top ``1 / eta`` of all that came there before; the first
        to come always does. Between rungs and when a rung was passed already, it goes on.
        """
        if not math.isfinite(best):
            return False
        for rung in reversed(self.rungs):
            recorded = self.rungs[rung]
            if fidelity < rung - TOLERANCE:
                continue
            if trial in recorded:
                return True
            before = list(recorded.values())
            recorded[trial] = best
            return not before or not self.objective.better(self._cutoff(before), best)
        return True

    def _cutoff(self, scores: list[float]) -> float:
        """Return the score that separates the best ``1 / eta`` (linear interpolation, as a percentile)."""
        ordered = sorted(scores, reverse=self.objective.mode == "min")
        position = (1 - 1 / self.fidelity.eta) * (len(ordered) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
