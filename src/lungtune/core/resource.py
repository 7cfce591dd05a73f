"""Training length of trials, and the rungs at which ASHA compares them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lungtune.errors import SpaceError, did_you_mean

TOLERANCE = 1e-6
"""Fidelities closer than this many passes are the same one."""

MAX_REPORTS = 1000

LONGEST = 1_000_000
"""Bound of all fields of a fidelity."""


@dataclass(frozen=True)
class Fidelity:
    """Training length in passes over the real training fold (samples seen / training cases; fractions allowed).

    Attributes:
        max: passes of a trial that is never stopped; the learning-rate schedule spans them.
        min: passes before ASHA first compares.
        eta: one in ``eta`` trials continues from each rung.
        report: passes between two evaluations; every rung is evaluated as well.
    """

    max: float
    min: float
    eta: float = 3.0
    report: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.min < self.max < math.inf:
            raise SpaceError(f"0 < fidelity.min < fidelity.max must hold, but got min={self.min:g}, max={self.max:g}.")
        if not 1 < self.eta < math.inf:
            raise SpaceError(f"fidelity.eta > 1 must hold, but got {self.eta:g}.")
        if self.report < 0 or self.report > self.max:
            raise SpaceError(f"0 <= fidelity.report <= fidelity.max must hold, but got {self.report:g}.")
        if self.max > MAX_REPORTS * (self.report or self.min):
            raise SpaceError(
                f"a trial may report at most {MAX_REPORTS} times, but fidelity.report={self.report or self.min:g} over "
                f"{self.max:g} passes makes more; raise fidelity.report or fidelity.min."
            )
        if len(self.levels) < 2:
            raise SpaceError(
                f"fidelity must give at least two rungs, but min={self.min:g}, max={self.max:g}, eta={self.eta:g} "
                f"give {len(self.levels)}; lower fidelity.min to {self.max / self.eta:.3g} or less, or lower eta."
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Fidelity:
        """Build one from the content of a file.

        Raises:
            SpaceError: a field is unknown or not a number, or they do not fit together.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        for key, value in values.items():
            if key not in names:
                raise SpaceError(f"'{key}' is not a field of fidelity.{did_you_mean(key, names)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LONGEST:
                raise SpaceError(f"fidelity.{key} must be a number < {LONGEST:,}, but got {value!r}.")
        return cls(**{key: float(value) for key, value in values.items()})

    @property
    def levels(self) -> tuple[float, ...]:
        """The rungs, then the full length: ``min * eta**k`` below ``max``, and ``max``."""
        levels, level = [], self.min
        while level < self.max * (1 - 1e-3):
            levels.append(round(level, 6))
            level *= self.eta
        if levels and levels[-1] * math.sqrt(self.eta) > self.max:
            levels.pop()  # a last rung just before the end would save nothing
        return (*levels, self.max)

    @property
    def rungs(self) -> tuple[float, ...]:
        """Levels at which ASHA compares: all but the full length."""
        return self.levels[:-1]

    @property
    def reports(self) -> tuple[float, ...]:
        """Every fidelity at which a trial is evaluated, ascending, rungs and ``max`` included."""
        step = self.report or self.min
        grid = [round(step * k, 6) for k in range(1, int(self.max / step) + 1)]
        between = [value for value in grid if all(abs(value - level) > step * 0.1 for level in self.levels)]
        return tuple(sorted([*self.levels, *between]))

    def planned(self, trials: int, never_stopped: int = 0) -> list[tuple[float, float, float]]:
        """Return (level, trials expected to reach it, passes spent on the way from the level before) per level."""
        never_stopped = min(never_stopped, trials)
        table, before, share = [], 0.0, 1.0
        for level in self.levels:
            reach = max(1.0, never_stopped + (trials - never_stopped) * share)
            table.append((level, reach, reach * (level - before)))
            before, share = level, share / self.eta
        return table
