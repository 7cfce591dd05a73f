"""Population based bandits by Ray Tune: PBT whose perturbations a Gaussian process chooses.

Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with Population-Based Bandits",
NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.core.params import param
from lungtune.core.scheduler import TuneScheduler


@dataclass(frozen=True)
class Pb2Settings:
    """Settings of PB2, named as in Ray Tune. The population is the space's ``trials``."""

    perturbation_interval: int = param(1, low=1, high=1000, unit="reports", help="reports between two perturbations")
    quantile_fraction: float = param(
        0.25, low=0.0, high=0.5, help="share of trials that are replaced by copies of as many of the best"
    )
    synch: bool = param(False, help="perturb all trials at the same report")


class Pb2(TuneScheduler[Pb2Settings]):
    """At intervals, the worst trials take the checkpoints of the best, with parameters of highest expected gain.

    Only numbers are perturbed; the axes of choices stay as each trial began.
    """

    Settings = Pb2Settings
    perturbs = True


SCHEDULER = Pb2
