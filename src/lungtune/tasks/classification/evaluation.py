"""Report section of one classifier on one data part, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtune.tasks.classification import METRICS, baselines, calibration, metrics, operating
from lungtune.tasks.classification.predictions import intervals, paired


@dataclass(frozen=True)
class Fitted:
    """Temperature and thresholds, fitted once, on validation."""

    temperature: calibration.Temperature
    points: tuple[operating.Point, ...]


def fit(
    labels: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    sensitivity: float = operating.SENSITIVITY,
) -> Fitted:
    """Fit temperature and thresholds on **validation** labels ``(N,)`` and probabilities ``(N, C)``."""
    points = operating.fit(labels, probabilities, classes, sensitivity)
    return Fitted(calibration.fit(labels, probabilities), points)


def section(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    train_labels: np.ndarray,
    heads: Mapping[str, np.ndarray] | None = None,
    measures: Mapping[str, Mapping[str, Any]] | None = None,
    fitted: Fitted | None = None,
    fitted_here: bool = False,
    vs_baseline: Mapping[str, Mapping[str, Any]] | None = None,
    unit: str = "patients",
) -> dict[str, Any]:
    """Evaluate one model on one data part, together with uninformed baselines.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: ``(N, C)``.
        patients: an id per case ``(N,)``.
        classes: the C names.
        train_labels: labels of the training fold, which choose the constant class.
        heads: name -> probabilities ``(N, C)`` of a further head.
        measures: metrics of the family's other tasks {name: {value, low, high, level, cases}}.
        fitted: what :func:`fit` set on validation; without it there are no thresholds and no temperature.
        fitted_here: these are the cases it was fitted on.
        vs_baseline: name -> a baseline (:func:`lungtune.tasks.classification.baselines.vs_baseline` or ``missing``).
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``cases``, ``patients`` (their number), ``unit`` (what they are), ``metrics`` {name: {value, low,
        high, level}}, ``confusion`` (rows the truth), ``per_class``, ``constant`` {class, metrics}, ``every_constant``,
        ``gain`` (macro-F1 above the constant class, paired interval), ``collapsed`` (a sentence, empty when it is
        not), ``measures``, ``heads``, ``fitted_here``, ``operating``
        (:func:`lungtune.tasks.classification.operating.evaluate`), ``calibration``
        (:func:`lungtune.tasks.classification.calibration.before_and_after`, or null), ``baselines``.
    """
    blind = baselines.prior(train_labels, len(classes), len(labels))
    scores = intervals(labels, probabilities, patients, classes)
    others = {name: intervals(labels, each, patients, classes) for name, each in (heads or {}).items()}
    return {
        "cases": len(labels),
        "patients": len(set(map(str, patients))),
        "unit": unit,
        "metrics": {name: value.to_dict() for name, value in scores.items()},
        "confusion": metrics.confusion(labels, probabilities).tolist(),
        "per_class": metrics.per_class(labels, probabilities, classes),
        "constant": {
            "class": baselines.majority(train_labels, classes),
            "metrics": baselines.constant_class(train_labels, labels, classes),
        },
        "every_constant": baselines.every_constant(labels, classes),
        "gain": paired(labels, probabilities, blind, patients).to_dict(),
        "collapsed": metrics.collapse_sentence(probabilities, classes),
        "measures": {name: dict(each) for name, each in (measures or {}).items()},
        "heads": {name: {key: each[key].to_dict() for key in METRICS} for name, each in others.items()},
        "fitted_here": fitted_here,
        "operating": operating.evaluate(fitted.points, labels, probabilities, patients, classes) if fitted else [],
        "calibration": (
            calibration.before_and_after(labels, probabilities, classes, fitted.temperature, fitted_here)
            if fitted
            else None
        ),
        "baselines": {name: dict(each) for name, each in (vs_baseline or {}).items()},
    }
