"""Calibration and thresholds of each label, fitted once, on validation.

Platt scaling (Platt 1999): ``p' = sigmoid(slope * logit(p) + offset)``, by least binary negative log-likelihood against
Platt's smoothed targets, which keeps it finite where the classes separate. A slope > 0 leaves the order, and so the
area under the ROC curve, as it is. The threshold of a label is that of the highest F1 on the calibrated probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lungtune.stats import bootstrap
from lungtune.tasks.multilabel import ENOUGH
from lungtune.tasks.multilabel.predictions import FLOOR, LabelScorer, known_labels

HOW = "p' = sigmoid(slope * log(p / (1 - p)) + offset), label by label; present where p' >= threshold"
SHOWN = ("nll", "brier", "ece")


@dataclass(frozen=True)
class Fit:
    """Calibration and threshold of one label.

    Attributes:
        slope: > 0.
        offset: of the logit.
        threshold: present at or above it; None where validation can't fit one.
        cases: known validation cases.
        note: why they are as they are, a sentence, or empty.
    """

    slope: float
    offset: float
    threshold: float | None
    cases: int
    note: str = ""


def fit(truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> tuple[Fit, ...]:
    """Fit each label on **validation** truth and probabilities ``(N, L)``."""
    known = known_labels(truth)
    return tuple(
        _fit(truth[known[:, k], k] == 1, np.asarray(probabilities, np.float64)[known[:, k], k], name)
        for k, name in enumerate(labels)
    )


def _fit(present: np.ndarray, p: np.ndarray, name: str) -> Fit:
    from scipy.optimize import minimize

    cases, positives = len(present), int(present.sum())
    if min(positives, cases - positives) < ENOUGH:
        sides = f"{positives} present and {cases - positives} absent"
        note = f"{name} is left as it is: validation has {sides} cases, and {ENOUGH} of each are needed."
        return Fit(1.0, 0.0, None, cases, note)
    logit = _logit(p)
    target = np.where(present, (positives + 1) / (positives + 2), 1 / (cases - positives + 2))

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = at[0] * logit + at[1]
        gap = _sigmoid(z) - target
        return float((np.logaddexp(0, z) - target * z).mean()), np.array([(gap * logit).mean(), gap.mean()])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(1e-3, 1e3), (-50, 50)])
    slope, offset = map(float, best.x)
    if slope <= 1e-3 * 1.01:
        note = f"{name} is left as it is: validation does not rank its present above its absent cases."
        return Fit(1.0, 0.0, _threshold(present, p), cases, note)
    return Fit(slope, offset, _threshold(present, _sigmoid(slope * logit + offset)), cases)


def _threshold(present: np.ndarray, p: np.ndarray) -> float:
    """Return the threshold of the highest F1, the highest of equals."""
    values = np.unique(p)[::-1]
    order = np.argsort(-p, kind="stable")
    called = np.searchsorted(-p[order], -values, side="right")
    hits = np.concatenate([[0], np.cumsum(present[order])])[called]
    return float(values[np.argmax(2 * hits / (called + present.sum()))])


def apply(probabilities: np.ndarray, fits: Sequence[Fit]) -> np.ndarray:
    """Return the calibrated probabilities ``(N, L)``."""
    slope, offset = (np.array([getattr(each, name) for each in fits]) for name in ("slope", "offset"))
    return _sigmoid(slope * _logit(np.asarray(probabilities, np.float64)) + offset)


def by_label(
    truth: np.ndarray, probabilities: np.ndarray, fits: Sequence[Fit], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return each label's figures on some cases; nothing is fitted.

    Returns:
        JSON-able, by label: ``present``, ``absent`` and ``uncertain`` or unknown cases; ``auroc`` and ``ap``;
        ``before`` and ``after`` calibration {nll, brier, ece}; ``f1``, ``recall`` and ``precision`` at the threshold;
        and the fields of :class:`Fit`. What is not defined is null.
    """
    calibrated = apply(probabilities, fits)
    scorers = [LabelScorer(truth, each, np.arange(len(truth))) for each in (probabilities, calibrated)]
    once = np.ones((1, len(truth)), np.int64)
    rows: dict[str, dict[str, Any]] = {}
    for k, (name, each) in enumerate(zip(labels, fits, strict=True)):
        present, absent = truth[:, k] == 1, truth[:, k] == 0
        scores = {one: bootstrap.plain(scorers[0], f"{one}_{k}") for one in ("auroc", "ap")}
        when = {
            time: {metric: _null(scorer.by_label(metric, once)[0, k]) for metric in SHOWN}
            for time, scorer in zip(("before", "after"), scorers, strict=True)
        }
        rows[name] = {
            "present": int(present.sum()),
            "absent": int(absent.sum()),
            "open": int((~present & ~absent).sum()),
            **{one: _null(score) for one, score in scores.items()},
            **when,
            **_called(present, absent, calibrated[:, k], each.threshold),
            **asdict(each),
        }
    return rows


def _called(present: np.ndarray, absent: np.ndarray, p: np.ndarray, threshold: float | None) -> dict[str, float | None]:
    """Return F1, recall and precision at a threshold; null without one, or without a present case."""
    if threshold is None or not present.any():
        return dict.fromkeys(("f1", "recall", "precision"))
    called = p >= threshold
    hits, extra = int((called & present).sum()), int((called & absent).sum())
    return {
        "f1": 2 * hits / (hits + extra + int(present.sum())),
        "recall": hits / int(present.sum()),
        "precision": hits / (hits + extra) if hits + extra else 0.0,
    }


def macro_f1(rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Return the mean F1 of the labels that have one (:func:`by_label`); None without any."""
    known = [row["f1"] for row in rows.values() if row["f1"] is not None]
    return float(np.mean(known)) if known else None


def _null(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, FLOOR, 1 - FLOOR)
    result: np.ndarray = np.log(p) - np.log1p(-p)
    return result


def _sigmoid(z: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
    return result
