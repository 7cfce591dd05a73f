"""Scores of yes-or-no questions under case weights: area under the ROC curve, average precision, calibration bins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ECE_BINS = 15
"""Bins of equal width of the expected calibration error (Guo et al. 2017)."""

_CHUNK = 4_000_000
"""At most this many case weights are held at a time (32 MB)."""

Ranked = Callable[[np.ndarray, np.ndarray], np.ndarray]


def bins(confidence: np.ndarray) -> np.ndarray:
    """Return the calibration bin (0-based) of each probability; bins are closed on the right."""
    result: np.ndarray = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    return result


def area(cases: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return P(score of a case > of a non-case) + P(equal) / 2 ``(D,)``; NaN without cases or without non-cases.

    Args:
        cases: weights ``(D, S)`` of the cases in rising order of S distinct scores.
        others: those of the non-cases.
    """
    below = np.cumsum(others, axis=1) - others
    pairs = cases.sum(axis=1) * others.sum(axis=1)
    won = (cases * (below + others / 2)).sum(axis=1)
    result: np.ndarray = np.divide(won, pairs, out=np.full(len(cases), np.nan), where=pairs > 0)
    return result


def precision(cases: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the average precision ``(D,)``; NaN without cases. Arguments as in :func:`area`."""
    total = cases.sum(axis=1)
    true_positives = np.cumsum(cases[:, ::-1], axis=1)
    called = np.cumsum((cases + others)[:, ::-1], axis=1)
    won = (cases[:, ::-1] * true_positives / np.maximum(called, 1)).sum(axis=1)
    result: np.ndarray = np.divide(won, total, out=np.full(len(cases), np.nan), where=total > 0)
    return result


def ranked(metric: Ranked, score: np.ndarray, case: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return :func:`area` or :func:`precision` ``(D,)`` under patient weights.

    Args:
        metric: one of the two.
        score: ``(N,)``.
        case: bool ``(N,)``.
        groups: patient index ``(N,)``.
        weights: ``(D, P)``.
    """
    order = np.argsort(score, kind="stable")
    ordered, case = score[order], case[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    values = np.full(len(weights), np.nan)
    step = max(1, _CHUNK // max(1, len(score)))
    for first in range(0, len(weights) if len(score) else 0, step):
        chunk = weights[first : first + step][:, groups[order]].astype(np.float64)
        cases = np.add.reduceat(chunk * case, starts, axis=1)
        others = np.add.reduceat(chunk * ~case, starts, axis=1)
        values[first : first + step] = metric(cases, others)
    return values
