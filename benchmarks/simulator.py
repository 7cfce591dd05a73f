"""Runs schedulers and samplers against recorded learning curves: no training, no Ray cluster.

Measured is the number of epochs that a search needs until any of its trials reaches the target of a table.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

TOP = 0.01
"""The target of a table is the final value of its best 1 % of configurations."""


class Curves(Protocol):
    """A searchable problem: axes, and a learning curve for every point."""

    axes: Mapping[str, BaseDistribution]
    epochs: int
    target: float
    mode: str

    def take(self, params: Mapping[str, Any], tried: set[int]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the configuration to try for a suggestion (``tried`` is the run's own memory), and its curve."""


@dataclass
class Table:
    """A finite table: a suggestion stands for the nearest row not tried yet; when all were, all may be again."""

    axes: Mapping[str, BaseDistribution]
    rows: list[dict[str, Any]]
    curves: np.ndarray
    mode: str = "max"
    epochs: int = field(init=False)
    target: float = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = self.curves.shape[1]
        self.target = target(self.curves[:, -1], self.mode)
        self._places = np.array([self._place(row) for row in self.rows])

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        """Return a configuration's coordinates: every axis from 0 to 1, a choice as one axis for each of its values."""
        place: list[float] = []
        for name, axis in self.axes.items():
            value = params[name]
            if isinstance(axis, CategoricalDistribution):
                place += [0.5 * (value == choice) for choice in axis.choices]
                continue
            scale = math.log if axis.log else float  # type: ignore[attr-defined]
            low, high = scale(axis.low), scale(axis.high)  # type: ignore[attr-defined]
            place.append((scale(value) - low) / (high - low))
        return place

    def take(self, params: Mapping[str, Any], tried: set[int]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the nearest row not in ``tried``, and add it there."""
        if len(tried) == len(self.rows):
            tried.clear()
        distance = ((self._places - np.array(self._place(params))) ** 2).sum(1)
        distance[list(tried)] = math.inf
        row = int(distance.argmin())
        tried.add(row)
        return self.rows[row], self.curves[row]


def target(final: np.ndarray, mode: str) -> float:
    """Return the value that the best 1 % of final values reach (of the best one when there are fewer than 100)."""
    ordered = np.sort(final[np.isfinite(final)])
    ordered = ordered[::-1] if mode == "max" else ordered
    return float(ordered[max(1, math.floor(TOP * len(ordered))) - 1])


class Method(Protocol):
    """A search: ``next`` returns a trial for a free worker, ``report`` receives each of its epochs."""

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """Return a trial's key, its configuration and how many of its epochs are known; None to wait."""

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Record the value after ``epoch`` epochs; return True if the trial goes on."""


@dataclass(frozen=True)
class Outcome:
    """Result of a run: epochs spent by all trials together, and True if they reached the target."""

    epochs: int
    reached: bool
    trials: int


def run(curves: Curves, method: Callable[[Callable[..., Any]], Method], budget: int, workers: int = 1) -> Outcome:
    """Run one search until it reaches the target or has spent ``budget`` epochs.

    Args:
        curves: the table.
        method: builds a search around ``choose(params) -> params``, which it calls with every suggestion to learn
            which configuration is tried for it.
        budget: epochs, of all trials together.
        workers: how many trials run at a time; every epoch takes each of them equally long.
    """
    tried: set[int] = set()
    known: dict[str, Sequence[float]] = {}
    repeat = count()

    def choose(params: Mapping[str, Any]) -> dict[str, Any]:
        taken, curve = curves.take(params, tried)
        taken = {**taken, "_run": str(next(repeat))}
        known[taken["_run"]] = curve
        return taken

    search = method(choose)
    busy: list[tuple[int, int, int, Sequence[float], int]] = []
    spent, order, now = 0, count(), 0
    while spent < budget:
        while len(busy) < workers and (given := search.next()) is not None:
            key, params, epoch = given
            heapq.heappush(busy, (now + 1, next(order), key, known[params["_run"]], epoch))
        if not busy:
            break
        now, _, key, curve, epoch = heapq.heappop(busy)
        value = float(curve[epoch])
        spent += 1
        if value >= curves.target if curves.mode == "max" else value <= curves.target:
            return Outcome(spent, True, len(known))
        if search.report(key, epoch + 1, value) and epoch + 1 < curves.epochs:
            heapq.heappush(busy, (now + 1, next(order), key, curve, epoch + 1))
    return Outcome(spent, False, len(known))
