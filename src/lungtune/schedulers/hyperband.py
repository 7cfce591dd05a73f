"""HyperBand, synchronous, by Ray Tune.

Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18 (2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.core.params import param
from lungtune.core.scheduler import TuneScheduler


@dataclass(frozen=True)
class HyperBandSettings:
    """Settings of HyperBand, named as in Ray Tune; the length of a trial is the space's ``fidelity``."""

    reduction_factor: float = param(3.0, low=2.0, high=16.0, help="one in so many trials of a bracket goes on")
    stop_last_trials: bool = param(True, help="end the last trials of a bracket at the full length")


class HyperBand(TuneScheduler[HyperBandSettings]):
    """Brackets of trials that are halved together, each from another length."""

    Settings = HyperBandSettings


SCHEDULER = HyperBand
