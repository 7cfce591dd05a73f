"""Asynchronous successive halving (ASHA); stateless, recomputed from the reports.

Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from lungtune.core.params import param
from lungtune.core.resource import TOLERANCE, Fidelity
from lungtune.core.scheduler import Decision, Scheduler
from lungtune.core.trial import Objective, State, Trial


@dataclass(frozen=True)
class AshaSettings:
    """Settings of ASHA; its rungs and ``eta`` are the space's ``fidelity``."""

    mode: str = param(
        "promote",
        choices=("promote", "stop"),
        help="promote pauses every trial at a rung and resumes the best; stop ends those below the top 1/eta so far",
    )


class Asha(Scheduler[AshaSettings]):
    """Compares trials at rungs.

    Two modes: *stop* ends a trial that is not among the best ``1 / eta`` of all that reached its rung before; *promote*
    pauses every trial at a rung, and :meth:`promotable` names the one to resume.

    Random trials and those a model chose are compared among themselves only: a model that overrates what looks good
    early fills the rungs with it, and would keep everything else from being promoted. Unlike Ray Tune's scheduler of
    the same name, a score that is not finite is never recorded and stops its trial, and a trial counts with its best
    report so far.
    """

    Settings = AshaSettings

    def __init__(self, fidelity: Fidelity, objective: Objective, settings: AshaSettings) -> None:
        super().__init__(fidelity, objective, settings)
        self.rungs: dict[float, dict[int, float]] = {rung: {} for rung in fidelity.rungs}
        """Score of each recorded trial by rung, in order of arrival."""
        self._ranked: dict[tuple[float, bool], list[tuple[float, int, int]]] = {
            (rung, random): [] for rung in self.rungs for random in (False, True)
        }

    def record(self, trial: Trial, fidelity: float) -> Decision:
        """Record a report; see ``Scheduler.record``.

        Between rungs, and where the rung has the trial already, it continues. At a rung it pauses (promote), or
        continues if it is no worse than the top ``1 / eta`` of all that arrived before, the first always (stop).
        """
        score = trial.score(self.objective, up_to=fidelity)
        if not math.isfinite(score):
            return Decision.STOP
        rung = next((rung for rung in reversed(self.rungs) if fidelity >= rung - TOLERANCE), None)
        if rung is None or trial.number in self.rungs[rung]:
            return Decision.CONTINUE
        recorded = self.rungs[rung]
        ranked = self._ranked[rung, trial.origin == "random"]
        cutoff = self._cutoff(ranked, recorded) if self.settings.mode == "stop" and ranked else math.nan
        insort(ranked, (-score if self.objective.mode == "max" else score, len(recorded), trial.number))
        recorded[trial.number] = score
        if self.settings.mode == "promote":
            return Decision.PAUSE
        continues = not self.objective.better(cutoff, score)
        return Decision.CONTINUE if continues else Decision.STOP

    def _cutoff(self, ranked: Sequence[tuple[float, int, int]], scores: Mapping[int, float]) -> float:
        """Return the score that separates the best ``1 / eta`` (linear interpolation, as a percentile)."""
        position = (1 - 1 / self.fidelity.eta) * (len(ranked) - 1)
        low = math.floor(position)
        high = min(low + 1, len(ranked) - 1)
        worse, better = (scores[ranked[len(ranked) - 1 - place][2]] for place in (low, high))
        return worse + (better - worse) * (position - low)

    def promotable(self, trials: Mapping[int, Trial], last: bool = False) -> int | None:
        """Return the paused trial to resume next, from the highest rung that has one.

        A paused trial is promoted if it is among the best ``1 / eta`` of its rung and kind. It competes with those
        paused there and those promoted from there; failed ones and ones that ended there do not count. With ``last``
        the best of each rung is promoted however few arrived.
        """
        for rung in reversed(self.rungs):
            kinds = [self._ranked[rung, random] for random in (False, True)]
            groups = [(ranked, math.floor(len(ranked) / self.fidelity.eta)) for ranked in kinds]
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


SCHEDULER = Asha
