"""Percentile bootstrap intervals over patients; the cases of a patient are drawn, or left out, together.

Any report that has a :class:`lungtune.core.task.Scorer` can be scored: all draws are one call with a matrix of patient
weights, so a scorer that keeps sums per patient needs some tens of milliseconds for 1,000 draws over 1,000 cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lungtune.core.task import Scorer
from lungtune.errors import did_you_mean


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval.

    ``low`` and ``high`` are NaN with one patient only, or no case to draw; ``value`` is NaN where no case has one.
    """

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3f} (no interval: a single patient or image)"
        return f"{self.value:.3f} ({100 * self.level:g} % interval {self.low:.3f} to {self.high:.3f})"

    @property
    def beyond_chance(self) -> bool:
        """True if the interval of a difference excludes 0."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | None]:
        """Return JSON-able fields; what is unknown is ``None``."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def interval_text(value: Mapping[str, float | None], digits: int = 3) -> str:
    """Return ``0.812 (0.770 to 0.850)`` of :meth:`Interval.to_dict`; the value alone without bounds, else a dash."""
    if value["value"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def groups_of(patients: Sequence[Any] | np.ndarray, cases: int) -> np.ndarray:
    """Return each case's patient as an index in 0..P-1.

    Raises:
        ValueError: there is not one patient per case.
    """
    ids = np.asarray(patients)
    if ids.shape != (cases,):
        raise ValueError(f"One patient per case must hold, but got {ids.shape} for {cases} cases.")
    return np.unique(ids.astype(str), return_inverse=True)[1]


def draw(patients: int, draws: int, seed: int) -> np.ndarray:
    """Return how often each patient is drawn ``(draws, P)`` in samples of P patients with replacement."""
    return np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws)


def percentiles(value: float, drawn: np.ndarray, patients: int, level: float) -> Interval:
    """Return the percentile interval of drawn values ``(D,)``; draws that are NaN do not count."""
    if patients < 2 or np.isnan(drawn).all():
        return Interval(float(value), math.nan, math.nan, level)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level)


def plain(scorer: Scorer, metric: Any) -> float:
    """Return the metric on all cases, each counted once."""
    return float(scorer.score(metric, np.ones((1, scorer.patients), np.int64))[0])


def scored(scorer: Scorer, metric: Any, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return a metric with its percentile interval over ``draws`` samples of patients.

    Raises:
        ValueError: the metric is not known.
    """
    return _scored(scorer, metric, draw(scorer.patients, draws, seed), level)


def _scored(scorer: Scorer, metric: Any, weights: np.ndarray, level: float) -> Interval:
    counted = int(np.count_nonzero(scorer.cases(metric)))
    return percentiles(plain(scorer, metric), scorer.score(metric, weights), counted, level)


def intervals(
    scorer: Scorer, names: Mapping[str, Any], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Return :func:`scored` of several metrics, all from the same draws.

    Args:
        scorer: scores the report.
        names: name in the result -> metric.
    """
    weights = draw(scorer.patients, draws, seed)
    return {shown: _scored(scorer, metric, weights, level) for shown, metric in names.items()}


def between(one: Scorer, two: Scorer, metric: Any, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return the difference ``one - two`` of two reports on the same cases, both scored on the same draws."""
    weights = draw(one.patients, draws, seed)
    counted = int(np.count_nonzero(np.minimum(one.cases(metric), two.cases(metric))))
    drawn = one.score(metric, weights) - two.score(metric, weights)
    return percentiles(plain(one, metric) - plain(two, metric), drawn, counted, level)


class CaseMeans:
    """Scores case-wise measures: the mean over the cases that have one.

    Args:
        values: name -> ``(N,)``, NaN where a case has no value.
        groups: patient index ``(N,)`` in 0..P-1.

    Raises:
        ValueError: a measure is not ``(N,)``, or infinite.
    """

    def __init__(self, values: Mapping[str, np.ndarray], groups: np.ndarray) -> None:
        self.patients = int(groups.max()) + 1
        self._sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for name, column in values.items():
            each = np.asarray(column, dtype=np.float64)
            if each.shape != groups.shape or np.isinf(each).any():
                raise ValueError(
                    f"'{name}' must be {groups.shape}, finite or NaN, but got {each.shape} and "
                    f"{np.isinf(each).sum()} inf."
                )
            has = ~np.isnan(each)
            count = np.bincount(groups[has], minlength=self.patients)
            self._sums[name] = np.bincount(groups[has], weights=each[has], minlength=self.patients), count

    def score(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the mean ``(D,)`` under patient weights ``(D, P)``; NaN where no case that counts has a value.

        Raises:
            ValueError: the metric is not known.
        """
        total, count = self._of(metric)
        counted = weights @ count
        result: np.ndarray = np.divide(weights @ total, counted, out=np.full(len(weights), np.nan), where=counted > 0)
        return result

    def outside(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the mean ``(D,)`` on the patients that draws ``(D, P)`` leave out."""
        return self.score(metric, (weights == 0).astype(np.int64))

    def cases(self, metric: Any) -> np.ndarray:
        """Return how many cases of each patient have a value ``(P,)``."""
        return self._of(metric)[1]

    def _of(self, metric: Any) -> tuple[np.ndarray, np.ndarray]:
        if metric not in self._sums:
            raise ValueError(f"'{metric}' is not a metric.{did_you_mean(str(metric), self._sums)}")
        return self._sums[metric]


class SeedMean:
    """Scores several reports on the same cases, such as those of several seeds, by the mean of their scores."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = tuple(scorers)
        self.patients = self.scorers[0].patients

    def score(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the mean of the scores ``(D,)`` under patient weights ``(D, P)``."""
        result: np.ndarray = np.mean([each.score(metric, weights) for each in self.scorers], axis=0)
        return result

    def outside(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the mean of the scores ``(D,)`` on the patients that draws ``(D, P)`` leave out."""
        result: np.ndarray = np.mean([each.outside(metric, weights) for each in self.scorers], axis=0)
        return result

    def cases(self, metric: Any) -> np.ndarray:
        """Return how many cases of each patient count in every report ``(P,)``."""
        result: np.ndarray = np.min([each.cases(metric) for each in self.scorers], axis=0)
        return result
