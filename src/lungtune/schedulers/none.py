"""No early stopping: every trial trains to its full length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lungtune.core.scheduler import Decision, Scheduler
from lungtune.core.trial import Trial


@dataclass(frozen=True)
class NoSettings:
    """No settings."""


class NoScheduler(Scheduler[NoSettings]):
    """Continues every trial that has a finite score, and pauses none."""

    Settings = NoSettings

    def record(self, trial: Trial, fidelity: float) -> Decision:
        """Return STOP if no report up to ``fidelity`` has a finite score, else CONTINUE."""
        return Decision.CONTINUE if math.isfinite(trial.score(self.objective, up_to=fidelity)) else Decision.STOP

    def promotable(self, trials: Mapping[int, Trial], last: bool = False) -> int | None:
        """Return None: no trial is ever paused."""
        return None


SCHEDULER = NoScheduler
