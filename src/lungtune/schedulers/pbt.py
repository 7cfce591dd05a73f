"""Population based training by Ray Tune.

Jaderberg et al., "Population Based Training of Neural Networks", arXiv 1711.09846.
"""

from __future__ import annotations

from dataclasses import dataclass

from lungtune.core.params import param
from lungtune.core.scheduler import TuneScheduler


@dataclass(frozen=True)
class PbtSettings:
    """Settings of PBT, named as in Ray Tune. The population is the space's ``trials``."""

    perturbation_interval: int = param(1, low=1, high=1000, unit="reports", help="reports between two perturbations")
    burn_in_period: int = param(0, low=0, high=1000, unit="reports", help="reports before the first perturbation")
    quantile_fraction: float = param(
        0.25, low=0.0, high=0.5, help="share of trials that are replaced by copies of as many of the best"
    )
    resample_probability: float = param(
        0.25, low=0.0, high=1.0, help="probability that a parameter is drawn anew instead of multiplied by 0.8 or 1.2"
    )
    synch: bool = param(False, help="perturb all trials at the same report")


class Pbt(TuneScheduler[PbtSettings]):
    """At intervals, the worst trials take the checkpoints of the best, and perturb their parameters."""

    Settings = PbtSettings
    perturbs = True


SCHEDULER = Pbt
