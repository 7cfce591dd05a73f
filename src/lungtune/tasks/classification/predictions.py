"""Class probabilities of labelled cases as stored by a report, and their bootstrap scores.

Every metric is a function of sums over cases (confusion counts, log losses, calibration bins) or, for AUROC and AP, of
case weights in the order of the scores. So all draws are one matrix product of patient weights and per-patient sums:
1,000 draws over 1,000 cases take some tens of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lungtune.errors import did_you_mean
from lungtune.stats import binary, bootstrap
from lungtune.stats.bootstrap import Interval, groups_of
from lungtune.tasks.classification import METRICS
from lungtune.tasks.classification import metrics as m

Metric = str | Callable[[np.ndarray, np.ndarray], float]
"""A name in ``METRICS``, ``recall_<class index>``, or a function of (labels, probabilities)."""


@dataclass(frozen=True)
class Probabilities:
    """Validation predictions stored by a report: ``labels`` int ``(N,)`` and ``probabilities`` ``(N, C)``."""

    labels: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def scorer(self, groups: np.ndarray) -> ProbabilityScorer:
        """Return a scorer over patients; ``groups`` is each case's patient ``(N,)`` in 0..P-1."""
        return ProbabilityScorer(self.labels, self.probabilities, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds."""
        return {"labels": self.labels, "probabilities": self.probabilities}

    def table(self) -> np.ndarray:
        """Return the probabilities, float32 ``(N, C)``."""
        return self.probabilities.astype(np.float32)

    def with_table(self, table: np.ndarray) -> Probabilities:
        """Return the predictions of another report on the same cases."""
        return replace(self, probabilities=table)

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return a warning sentence if the model has collapsed, else an empty string."""
        return m.collapse_sentence(self.probabilities, classes)

    def figures(self, title: str, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the confusion matrix and the ROC curves as PNG.

        Raises:
            ValueError: they are predictions of other classes.
        """
        from lungtune.tasks.classification.figures import confusion_png, roc_png

        arguments = self.labels, self.probabilities, classes, title
        yield "confusion_matrix.png", confusion_png(*arguments)
        yield "roc.png", roc_png(*arguments)


class ProbabilityScorer:
    """Scores class probabilities under many weightings of the patients.

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
            mean: np.ndarray = (weights @ self._per_patient(metric) / np.maximum(total, 1))[:, 0]
            return mean
        if metric == "ece":
            total = weights @ self._per_patient("cases")
            error: np.ndarray = np.abs(weights @ self._per_patient("ece")).sum(axis=1) / np.maximum(total[:, 0], 1)
            return error
        counts = (weights @ self._per_patient("confusion")).reshape(-1, self.classes, self.classes)
        return _from_counts(metric, counts)

    def outside(self, metric: Metric, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on the patients that draws ``(D, P)`` leave out."""
        return self.score(metric, (weights == 0).astype(weights.dtype))

    def cases(self, metric: Metric) -> np.ndarray:
        """Return how many cases each patient has ``(P,)``."""
        return np.bincount(self.groups, minlength=self.patients)

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
                column, value, width = (
                    binary.bins(confidence),
                    (self.predicted == self.labels) - confidence,
                    binary.ECE_BINS,
                )
            flat = np.bincount(self.groups * width + column, weights=value, minlength=self.patients * width)
            self._sums[what] = flat.reshape(self.patients, width)
        return self._sums[what]

    def _ordered(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """Mean over the classes of the one-vs-rest area or average precision, of case weights in order of the score."""
        one = binary.area if metric == "macro_auroc" else binary.precision
        columns = [
            binary.ranked(one, self.probabilities[:, k], self.labels == k, self.groups, weights)
            for k in range(self.classes)
        ]
        values = np.stack(columns, axis=1)
        known = np.isfinite(values)
        mean = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        return np.where(known.any(axis=1), mean, 0.5)

    def _rows(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        for row in weights:
            yield np.repeat(np.arange(len(self.labels)), row[self.groups])


def _from_counts(metric: str, counts: np.ndarray) -> np.ndarray:
    """Return a metric ``(D,)`` of confusion counts ``(D, C, C)``, rows the truth."""
    hits = np.diagonal(counts, axis1=1, axis2=2)
    cases, called = counts.sum(axis=2), counts.sum(axis=1)
    total = np.maximum(cases.sum(axis=1), 1)
    recall = hits / np.maximum(cases, 1)
    value: np.ndarray
    if metric == "macro_f1":
        f1 = 2 * hits / np.maximum(cases + called, 1)
        value = f1.sum(axis=1) / np.maximum((cases + called > 0).sum(axis=1), 1)
        return value
    if metric == "balanced_accuracy":
        value = recall.sum(axis=1) / np.maximum((cases > 0).sum(axis=1), 1)
        return value
    if metric == "accuracy":
        value = hits.sum(axis=1) / total
        return value
    if metric == "mcc":
        covariance = hits.sum(axis=1) * total - (cases * called).sum(axis=1)
        spread = (total**2 - (cases**2).sum(axis=1)) * (total**2 - (called**2).sum(axis=1))
        value = np.divide(covariance, np.sqrt(spread), out=np.zeros(len(counts)), where=spread > 0)
        return value
    known = {*METRICS, *(f"recall_{k}" for k in range(counts.shape[1]))}
    if metric not in known:
        raise ValueError(f"'{metric}' is not a metric.{did_you_mean(metric, known)}")
    k = int(metric.removeprefix("recall_"))
    return np.where(cases[:, k] > 0, recall[:, k], np.nan)


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
    scorer = ProbabilityScorer(labels, probabilities, groups_of(patients, len(labels)))
    return bootstrap.scored(scorer, metric, draws, seed, level)


def intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return every metric, ``recall_<class>`` included, with its interval; all from the same draws.

    The recall of a class without a case is 0, as in the metrics module, and has no bounds.
    """
    scorer = ProbabilityScorer(labels, probabilities, groups_of(patients, len(labels)))
    names = {name: name for name in METRICS} | {f"recall_{name}": f"recall_{k}" for k, name in enumerate(classes)}
    result = bootstrap.intervals(scorer, names, draws, seed, level)
    return {name: replace(each, value=0.0) if math.isnan(each.value) else each for name, each in result.items()}


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
    one, two = (ProbabilityScorer(labels, each, groups) for each in (first, second))
    return bootstrap.between(one, two, metric, draws, seed, level)
