"""A model judged on one part of the data: everything a report says of it, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtune.stats import bootstrap, case_metrics
from lungtune.tasks.classification import baselines, calibration, metrics, operating


@dataclass(frozen=True)
class Fitted:
    """What was set on validation and stays as it is elsewhere: a temperature, and thresholds."""

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
    extras: Mapping[str, np.ndarray] | None = None,
    fitted: Fitted | None = None,
    fitted_here: bool = False,
    beside: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Judge one model on one part of the data, beside models that cannot know.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: ``(N, C)``.
        patients: an id per case ``(N,)``.
        classes: the C names.
        train_labels: labels of the training fold, which choose the constant class.
        extras: what the prediction holds beside its probabilities (:func:`lungtune.stats.case_metrics.judge`).
        fitted: what :func:`fit` set on validation; without it there are no thresholds and no temperature.
        fitted_here: these are the cases it was fitted on.
        beside: name -> a baseline (:func:`lungtune.tasks.classification.baselines.beside` or ``missing``).

    Returns:
        JSON-able: ``cases``, ``patients``, ``metrics`` {name: {value, low, high, level}}, ``confusion`` (rows the
        truth), ``per_class``, ``constant`` {class, metrics}, ``every_constant``, ``gain`` (macro-F1 above the constant
        class, paired interval), ``collapsed`` (a sentence, empty when it is not), ``measures``, ``heads``,
        ``fitted_here``, ``operating`` (:func:`lungtune.tasks.classification.operating.judge`), ``calibration``
        (:func:`lungtune.tasks.classification.calibration.before_and_after`, or null), ``baselines``.
    """
    blind = baselines.prior(train_labels, len(classes), len(labels))
    found = bootstrap.intervals(labels, probabilities, patients, classes)
    values, heads = case_metrics.judge(extras or {}, labels, patients, classes)
    return {
        "cases": len(labels),
        "patients": len(set(map(str, patients))),
        "metrics": {name: value.to_dict() for name, value in found.items()},
        "confusion": metrics.confusion(labels, probabilities).tolist(),
        "per_class": metrics.per_class(labels, probabilities, classes),
        "constant": {
            "class": baselines.majority(train_labels, classes),
            "metrics": baselines.constant_class(train_labels, labels, classes),
        },
        "every_constant": baselines.every_constant(labels, classes),
        "gain": bootstrap.paired(labels, probabilities, blind, patients).to_dict(),
        "collapsed": metrics.collapse_sentence(probabilities, classes),
        "measures": values,
        "heads": heads,
        "fitted_here": fitted_here,
        "operating": operating.judge(fitted.points, labels, probabilities, patients, classes) if fitted else [],
        "calibration": (
            calibration.before_and_after(labels, probabilities, classes, fitted.temperature, fitted_here)
            if fitted
            else None
        ),
        "baselines": {name: dict(each) for name, each in (beside or {}).items()},
    }
