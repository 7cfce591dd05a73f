"""Intervals by bootstrap over patients: images of one patient are drawn, or left out, together.

Every metric of :data:`lungtune.tasks.classification.metrics.METRICS` is a function of sums over cases (confusion counts, log
losses, calibration bins) or, for AUROC and AP, of case weights in the order of the scores. So all draws are one matrix
product of patient weights and per-patient sums: 1,000 draws over 1,000 cases take some tens of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from lungtune.errors import did_you_mean
from lungtune.tasks.classification import metrics as m

Metric = str | Callable[[np.ndarray, np.ndarray], float]
"""A name in ``METRICS``, ``recall_<class index>``, or a function of (labels, probabilities)."""

_CHUNK = 4_000_000
"""At most this many case weights are held at a time (32 MB)."""


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval; ``low`` and ``high`` are NaN when there is one patient only, or no case
    to draw."""

    value: float
    low: float
    high: float
    level: float = 0.95

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.value:.3f} (no interval: one patient)"
        return f"{self.value:.3f} ({100 * self.level:g} % interval {self.low:.3f} to {self.high:.3f})"

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval of a difference leaves out 0."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | None]:
        """Return JSON-able fields; an unknown bound is ``None``."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


class Scoring(Protocol):
    """Scores one report under many weightings of the patients, whatever kind of evidence it is of."""

    patients: int

    def score(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` under whole-number patient weights ``(D, P)``; a row of ones gives it plain."""

    def outside(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on what draws ``(D, P)`` leave out."""


class Scorer:
    """Scores one set of predictions under many weightings of the patients.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: ``(N, C)``.
        groups: patient index ``(N,)`` in 0..P-1.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> None:
        self.labels, self.probabilities = m.check(labels, probabilities)
        self.groups = groups
        self.classes = self.probabilities.shape[1]
        self.patients = int(groups.max()) + 1
        self.predicted = self.probabilities.argmax(axis=1)
        self._sums: dict[str, np.ndarray] = {}

    def score(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` under whole-number patient weights ``(D, P)``.

        The recall of a class is NaN where no case of it is drawn.

        Raises:
            ValueError: the metric is not known.
        """
        if callable(metric):
            return np.array([metric(self.labels[rows], self.probabilities[rows]) for rows in self._rows(weights)])
        if metric in ("macro_auroc", "macro_ap"):
            return self._ordered(metric, weights)
        if metric in ("nll", "brier"):
            total = weights @ self._per_patient("cases")
            return (weights @ self._per_patient(metric) / np.maximum(total, 1))[:, 0]
        if metric == "ece":
            total = weights @ self._per_patient("cases")
            return np.abs(weights @ self._per_patient("ece")).sum(axis=1) / np.maximum(total[:, 0], 1)
        counts = (weights @ self._per_patient("confusion")).reshape(-1, self.classes, self.classes)
        return _from_counts(metric, counts)

    def outside(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on the patients that draws ``(D, P)`` leave out."""
        return self.score(metric, (weights == 0).astype(weights.dtype))

    def _per_patient(self, what: str) -> np.ndarray:
        """Return sums over each patient's cases ``(P, K)``."""
        if what not in self._sums:
            count, rows = len(self.labels), np.arange(len(self.labels))
            if what == "cases":
                column, value, width = np.zeros(count, np.int64), np.ones(count), 1
            elif what == "confusion":
                column, value, width = self.labels * self.classes + self.predicted, np.ones(count), self.classes**2
            elif what == "nll":
                value = -np.log(np.maximum(self.probabilities[rows, self.labels], m.FLOOR))
                column, width = np.zeros(count, np.int64), 1
            elif what == "brier":
                value = ((self.probabilities - np.eye(self.classes)[self.labels]) ** 2).sum(axis=1)
                column, width = np.zeros(count, np.int64), 1
            else:
                confidence = self.probabilities.max(axis=1)
                column, value, width = m.bins(confidence), (self.predicted == self.labels) - confidence, m.ECE_BINS
            flat = np.bincount(self.groups * width + column, weights=value, minlength=self.patients * width)
            self._sums[what] = flat.reshape(self.patients, width)
        return self._sums[what]

    def _ordered(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """Mean over the classes of the one-vs-rest area or average precision, of case weights in order of the score."""
        one = _area if metric == "macro_auroc" else _precision
        found = np.full((len(weights), self.classes), np.nan)
        step = max(1, _CHUNK // len(self.labels))
        for k in range(self.classes):
            order = np.argsort(self.probabilities[:, k], kind="stable")
            score = self.probabilities[order, k]
            starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
            case = self.labels[order] == k
            for first in range(0, len(weights), step):
                chunk = weights[first : first + step][:, self.groups[order]].astype(np.float64)
                cases = np.add.reduceat(chunk * case, starts, axis=1)
                others = np.add.reduceat(chunk * ~case, starts, axis=1)
                found[first : first + step, k] = one(cases, others)
        known = np.isfinite(found)
        mean = np.where(known, found, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.where(known.any(axis=1), mean, 0.5)

    def _rows(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        for row in weights:
            yield np.repeat(np.arange(len(self.labels)), row[self.groups])


def _area(cases: np.ndarray, others: np.ndarray) -> np.ndarray:
    """P(score of a case > of a non-case) + P(equal) / 2 of weights ``(D, S)`` in rising order of S distinct scores."""
    below = np.cumsum(others, axis=1) - others
    pairs = cases.sum(axis=1) * others.sum(axis=1)
    won = (cases * (below + others / 2)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(cases), np.nan), where=pairs > 0)


def _precision(cases: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Average precision of weights ``(D, S)`` in rising order of S distinct scores."""
    total = cases.sum(axis=1)
    found = np.cumsum(cases[:, ::-1], axis=1)
    called = np.cumsum((cases + others)[:, ::-1], axis=1)
    won = (cases[:, ::-1] * found / np.maximum(called, 1)).sum(axis=1)
    return np.divide(won, total, out=np.full(len(cases), np.nan), where=total > 0)


def _from_counts(metric: str, counts: np.ndarray) -> np.ndarray:
    """Return a metric ``(D,)`` of confusion counts ``(D, C, C)``, rows the truth."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    cases, called = counts.sum(axis=2), counts.sum(axis=1)
    total = np.maximum(cases.sum(axis=1), 1)
    recall = hits / np.maximum(cases, 1)
    if metric == "macro_f1":
        return (2 * hits / np.maximum(cases + called, 1)).sum(axis=1) / np.maximum((cases + called > 0).sum(axis=1), 1)
    if metric == "balanced_accuracy":
        return recall.sum(axis=1) / np.maximum((cases > 0).sum(axis=1), 1)
    if metric == "accuracy":
        return hits.sum(axis=1) / total
    if metric == "mcc":
        covariance = hits.sum(axis=1) * total - (cases * called).sum(axis=1)
        spread = (total**2 - (cases**2).sum(axis=1)) * (total**2 - (called**2).sum(axis=1))
        return np.divide(covariance, np.sqrt(spread), out=np.zeros(len(counts)), where=spread > 0)
    known = {*m.METRICS, *(f"recall_{k}" for k in range(counts.shape[1]))}
    if metric not in known:
        raise ValueError(f"'{metric}' is not a metric.{did_you_mean(metric, known)}")
    k = int(metric.removeprefix("recall_"))
    return np.where(cases[:, k] > 0, recall[:, k], np.nan)


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


def _interval(value: float, drawn: np.ndarray, patients: int, level: float) -> Interval:
    value = 0.0 if math.isnan(value) else value  # the recall of a class without a case, as in the metrics module
    if patients < 2 or np.isnan(drawn).all():
        return Interval(float(value), math.nan, math.nan, level)
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), level)


def interval(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    metric: Metric = "macro_f1",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return a metric with its percentile interval over ``draws`` samples of patients.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: ``(N, C)``, rows summing to 1.
        patients: an id per case ``(N,)``; use the case's own id where patients are not known.
        metric: a name or a function of (labels, probabilities), which is called once a draw.

    Raises:
        TrialError: a probability is not finite.
        ValueError: shapes are wrong or the metric is not known.
    """
    return scored(Scorer(labels, probabilities, groups_of(patients, len(labels))), metric, draws, seed, level)


def scored(scorer: Scoring, metric: Metric, draws: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Return :func:`interval` of any report, given what scores it."""
    value = scorer.score(metric, np.ones((1, scorer.patients), np.int64))[0]
    return _interval(value, scorer.score(metric, draw(scorer.patients, draws, seed)), scorer.patients, level)


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return every metric, ``recall_<class>`` included, with its interval; all from the same draws."""
    scorer = Scorer(labels, probabilities, groups_of(patients, len(labels)))
    ones, weights = np.ones((1, scorer.patients), np.int64), draw(scorer.patients, draws, seed)
    names = {name: name for name in m.METRICS} | {f"recall_{name}": f"recall_{k}" for k, name in enumerate(classes)}
    return {
        shown: _interval(scorer.score(name, ones)[0], scorer.score(name, weights), scorer.patients, level)
        for shown, name in names.items()
    }


def paired(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    metric: Metric = "macro_f1",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the difference ``first - second`` of two models on the same cases, both scored on the same draws.

    Args as in :func:`interval`; ``first`` and ``second`` are probabilities ``(N, C)``.
    """
    groups = groups_of(patients, len(labels))
    return between(Scorer(labels, first, groups), Scorer(labels, second, groups), metric, draws, seed, level)


def between(
    one: Scoring, two: Scoring, metric: Metric, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return :func:`paired` of any two reports on the same cases, given what scores each."""
    ones, weights = np.ones((1, one.patients), np.int64), draw(one.patients, draws, seed)
    value = (one.score(metric, ones) - two.score(metric, ones))[0]
    return _interval(value, one.score(metric, weights) - two.score(metric, weights), one.patients, level)
