"""Label probabilities as stored by a report, and their bootstrap scores.

A label that is uncertain or unknown in a case does not count there. ``macro_auroc`` and ``macro_ap`` are means over the
labels with at least ``ENOUGH`` known positive and ``ENOUGH`` known negative cases; where no label has as many, over
those with one of each. The labels are chosen on all cases, not anew in each draw. The other metrics are means over all
labels with a known case.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lungtune.errors import TrialError, did_you_mean
from lungtune.stats import binary, bootstrap
from lungtune.stats.bootstrap import Interval
from lungtune.tasks.multilabel import ENOUGH, METRICS

FLOOR = 1e-12
"""Least probability in a log-likelihood."""

FLAT = 1e-4
"""A model whose probabilities of every label vary less than this is called collapsed."""


@dataclass(frozen=True)
class LabelProbabilities:
    """Predictions stored by a report: ``truth`` float ``(N, L)`` as in the data, and ``probabilities`` ``(N, L)``."""

    truth: np.ndarray
    probabilities: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def scorer(self, groups: np.ndarray) -> LabelScorer:
        """Return a scorer over patients; ``groups`` is each case's patient ``(N,)`` in 0..P-1."""
        return LabelScorer(self.truth, self.probabilities, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds."""
        return {"truth": self.truth, "probabilities": self.probabilities}

    def table(self) -> np.ndarray:
        """Return the probabilities, float32 ``(N, L)``."""
        return self.probabilities.astype(np.float32)

    def with_table(self, table: np.ndarray) -> LabelProbabilities:
        """Return the predictions of another report on the same cases."""
        return replace(self, probabilities=table)

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return a warning sentence if every case gets the same probabilities, else an empty string."""
        if len(self) < 2 or np.ptp(self.probabilities, axis=0).max() > FLAT:
            return ""
        return "The model has collapsed: it gives all cases the same probabilities."

    def figures(self, title: str, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield the ROC curves of the labels as PNG.

        Raises:
            ValueError: they are predictions of other labels.
        """
        from lungtune.tasks import curves

        known = known_labels(self.truth)
        questions = {
            name: (self.truth[known[:, k], k] == 1, self.probabilities[known[:, k], k])
            for k, name in zip(range(self.truth.shape[1]), classes, strict=True)
        }
        yield "roc.png", curves.roc_png(questions, title, "label, area")


def known_labels(truth: np.ndarray) -> np.ndarray:
    """Return bool ``(N, L)``, True where a label is known to be present or absent."""
    result: np.ndarray = (truth == 0) | (truth == 1)
    return result


def counted(truth: np.ndarray) -> np.ndarray:
    """Return which labels the macro metrics are over, bool ``(L,)``."""
    fewer = np.minimum((truth == 1).sum(axis=0), (truth == 0).sum(axis=0))
    result: np.ndarray = fewer >= (ENOUGH if (fewer >= ENOUGH).any() else 1)
    return result


def left_out(truth: np.ndarray, names: Sequence[str]) -> str:
    """Return a sentence that names the labels that macro metrics are not over; empty without any."""
    rare = [name for name, one in zip(names, counted(truth), strict=True) if not one]
    if not rare:
        return ""
    return (
        f"macro_auroc and macro_ap are over {len(names) - len(rare)} of {len(names)} labels; left out, with fewer than "
        f"{ENOUGH} known positive or negative cases: {', '.join(rare)}."
    )


class LabelScorer:
    """Scores label probabilities under many weightings of the patients.

    Args:
        truth: ``(N, L)``: 0 or 1; any other value does not count.
        probabilities: ``(N, L)`` in [0, 1].
        groups: patient index ``(N,)`` in 0..P-1.

    Raises:
        TrialError: a probability is not finite (reason ``nan``).
        ValueError: shapes or values are wrong.
    """

    def __init__(self, truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> None:
        self.truth, self.probabilities = np.asarray(truth), np.asarray(probabilities, dtype=np.float64)
        if self.truth.ndim != 2 or self.truth.shape != self.probabilities.shape or not len(self.truth):
            raise ValueError(
                f"truth and probabilities (N, L) with N >= 1 must hold, but got {self.truth.shape} and "
                f"{self.probabilities.shape}."
            )
        bad = int((~np.isfinite(self.probabilities)).any(axis=1).sum())
        if bad:
            raise TrialError("nan", f"The probabilities of {bad} of {len(self.truth)} cases are not finite.")
        if self.probabilities.min() < 0 or self.probabilities.max() > 1:
            raise ValueError("probabilities must lie in [0, 1]; were logits meant?")
        self.groups = groups
        self.patients = int(groups.max()) + 1
        self.known = known_labels(self.truth)
        self.counted = counted(self.truth)
        self._sums: dict[str, np.ndarray] = {}

    def score(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` under whole-number patient weights ``(D, P)``.

        ``auroc_<k>`` and ``ap_<k>`` of label k are NaN where there is no case of each kind; so are means over none.

        Raises:
            ValueError: the metric is not known.
        """
        name, _, index = metric.rpartition("_")
        if name in ("auroc", "ap") and index.isdecimal():
            return self._ranked(name, int(index), weights)
        if metric in ("macro_auroc", "macro_ap"):
            values = [
                self._ranked(metric.removeprefix("macro_"), int(k), weights) for k in np.flatnonzero(self.counted)
            ]
            return _mean(np.stack(values, axis=1)) if values else np.full(len(weights), 0.5)
        if metric not in METRICS:
            known = {*METRICS, *(f"{one}_{k}" for one in ("auroc", "ap") for k in range(self.truth.shape[1]))}
            raise ValueError(f"'{metric}' is not a metric.{did_you_mean(metric, known)}")
        return _mean(self.by_label(metric, weights))

    def by_label(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """Return ``nll``, ``brier`` or ``ece`` of each label ``(D, L)``; NaN without a known case."""
        labels = self.truth.shape[1]
        total, cases = weights @ self._per_patient(metric), weights @ self._per_patient("cases")
        if metric == "ece":
            total = np.abs(total.reshape(len(weights), labels, -1)).sum(axis=2)
        result: np.ndarray = np.divide(total, cases, out=np.full(cases.shape, np.nan), where=cases > 0)
        return result

    def outside(self, metric: str, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on the patients that draws ``(D, P)`` leave out."""
        return self.score(metric, (weights == 0).astype(weights.dtype))

    def cases(self, metric: str) -> np.ndarray:
        """Return how many cases each patient has that the metric is over ``(P,)``."""
        index = metric.rpartition("_")[2]
        rows = self.known[:, int(index)] if index.isdecimal() else self.known.any(axis=1)
        return np.bincount(self.groups[rows], minlength=self.patients)

    def _ranked(self, name: str, k: int, weights: np.ndarray) -> np.ndarray:
        rows = self.known[:, k]
        one = binary.area if name == "auroc" else _precision
        score, positive = self.probabilities[rows, k], self.truth[rows, k] == 1
        return binary.ranked(one, score, positive, self.groups[rows], weights)

    def _per_patient(self, what: str) -> np.ndarray:
        """Return sums over each patient's cases ``(P, L)``; of calibration gaps ``(P, L * bins)``."""
        if what not in self._sums:
            present, p = self.truth == 1, self.probabilities
            cases, labels = self.truth.shape
            column, width = np.tile(np.arange(labels), (cases, 1)), labels
            if what == "cases":
                value = np.ones_like(p)
            elif what == "nll":
                value = -np.log(np.maximum(np.where(present, p, 1 - p), FLOOR))
            elif what == "brier":
                value = (p - present) ** 2
            else:
                value, width = present - p, labels * binary.ECE_BINS
                column = column * binary.ECE_BINS + binary.bins(p)
            place = (self.groups[:, None] * width + column)[self.known]
            flat = np.bincount(place, weights=value[self.known], minlength=self.patients * width)
            self._sums[what] = flat.reshape(self.patients, width)
        return self._sums[what]


def _precision(cases: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the average precision ``(D,)``, NaN without non-cases too: it would be 1."""
    return np.where(others.sum(axis=1) > 0, binary.precision(cases, others), np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the labels ``(D,)`` of values ``(D, L)``, those that are NaN left out; NaN without any."""
    known = np.isfinite(values)
    total, count = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    result: np.ndarray = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return result


def interval(
    truth: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[str] | np.ndarray,
    metric: str = "macro_auroc",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return a metric with its percentile interval over ``draws`` samples of patients.

    Args:
        truth: ``(N, L)``.
        probabilities: ``(N, L)``.
        patients: an id per case ``(N,)``.
        metric: see :meth:`LabelScorer.score`.

    Raises:
        TrialError: a probability is not finite.
        ValueError: shapes are wrong or the metric is not known.
    """
    scorer = LabelScorer(truth, probabilities, bootstrap.groups_of(patients, len(truth)))
    return bootstrap.scored(scorer, metric, draws, seed, level)


def plain(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return every metric of the task on all cases, those that are not defined left out."""
    scorer = LabelScorer(truth, probabilities, np.arange(len(truth)))
    scores = {name: bootstrap.plain(scorer, name) for name in METRICS}
    return {name: value for name, value in scores.items() if not math.isnan(value)}
