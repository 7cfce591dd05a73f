"""Thresholds for a target sensitivity, fitted on validation and evaluated unchanged elsewhere.

A case is called when its score is at least the threshold. The score is a class's probability, against the rest, and
``1 - p(normal)`` for "abnormal" where there is a class named normal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lungtune.stats import case_metrics
from lungtune.tasks.classification import metrics

SENSITIVITY = 0.95
ABNORMAL = "abnormal"
_NORMAL = "normal"


@dataclass(frozen=True)
class Point:
    """A threshold for one question; ``threshold`` is None if validation can't fit one, with the reason in ``note``.

    Attributes:
        target: a class, against the rest, or ``abnormal``.
        wanted: the sensitivity to reach.
        threshold: cases with at least this score are called.
        note: caveat as a sentence, or empty.
    """

    target: str
    wanted: float
    threshold: float | None
    note: str = ""


def fit(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], wanted: float = SENSITIVITY
) -> tuple[Point, ...]:
    """Fit a threshold per question: the highest with a sensitivity of at least ``wanted``.

    Args:
        labels: whole numbers ``(N,)`` of validation cases.
        probabilities: ``(N, C)``.
        classes: the C names.
        wanted: sensitivity, above 0 and below 1.

    Raises:
        ValueError: ``wanted`` is out of range, or shapes, labels or row sums are wrong.
    """
    if not 0 < wanted < 1:
        raise ValueError(f"0 < wanted sensitivity < 1 must hold, but got {wanted:g}.")
    labels, probabilities = metrics.check(labels, probabilities)
    return tuple(
        _point(target, own, score, wanted)
        for target, (own, score) in _questions(labels, probabilities, classes).items()
    )


def evaluate(
    points: Sequence[Point],
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Evaluate thresholds on some cases, with intervals over patients; nothing is fitted.

    Returns:
        JSON-able, one entry a point: its fields, ``cases``, ``others``, ``sensitivity`` and ``specificity``
        {value, low, high, level}, null where there is no threshold.
    """
    labels, probabilities = metrics.check(labels, probabilities)
    questions = _questions(labels, probabilities, classes)
    rows = []
    for point in points:
        own, score = questions[point.target]
        row = {**asdict(point), "cases": int(own.sum()), "others": int((~own).sum())}
        row |= {"sensitivity": None, "specificity": None}
        if point.threshold is not None:
            called = score >= point.threshold
            row["sensitivity"] = case_metrics.mean(np.where(own, called, np.nan), patients).to_dict()
            row["specificity"] = case_metrics.mean(np.where(own, np.nan, ~called), patients).to_dict()
        rows.append(row)
    return rows


def _questions(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Return per question its positive cases, bool ``(N,)``, and all scores ``(N,)``."""
    questions = {name: (labels == k, probabilities[:, k]) for k, name in enumerate(classes)}
    normal = next((k for k, name in enumerate(classes) if name.strip().lower() == _NORMAL), None)
    if normal is not None:
        questions.setdefault(ABNORMAL, (labels != normal, 1 - probabilities[:, normal]))
    return questions


def _point(target: str, own: np.ndarray, score: np.ndarray, wanted: float) -> Point:
    from sklearn.metrics import roc_curve

    cases, others = int(own.sum()), int((~own).sum())
    if not cases or not others:
        which = f"no case of '{target}'" if not cases else f"nothing but '{target}'"
        return Point(target, wanted, None, f"No threshold can be set: validation holds {which}.")
    false, true, thresholds = roc_curve(own, score, drop_intermediate=False)
    place = int(np.argmax(true >= wanted - 1e-12))
    notes, least = [], math.ceil(1 / (1 - wanted) - 1e-9)
    if cases < least:
        notes.append(
            f"Validation has {cases} of '{target}', too few to set a sensitivity of {wanted:.3g}: missing one falls "
            f"below it, so the threshold finds all {cases}. At least {least} are needed."
        )
    if false[place] == 1:
        notes.append(f"Every validation case is called: at this sensitivity the model does not separate '{target}'.")
    return Point(target, wanted, float(thresholds[place]), " ".join(notes))
