"""BOHB by Ray Tune: HyperBand's brackets, filled by a kernel density estimator. Needs hpbandster and ConfigSpace.

Falkner et al., "BOHB: Robust and Efficient Hyperparameter Optimization at Scale", ICML 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.core.params import param
from lungtune.core.scheduler import TuneScheduler


@dataclass(frozen=True)
class BohbSettings:
    """Settings of BOHB, named as in Ray Tune; the length of a trial is the space's ``fidelity``."""

    reduction_factor: float = param(3.0, low=2.0, high=16.0, help="one in so many trials of a bracket goes on")


class Bohb(TuneScheduler[BohbSettings]):
    """HyperBand whose trials its own searcher suggests, from the scores at the longest length with enough of them."""

    Settings = BohbSettings
    suggests = True


SCHEDULER = Bohb
