"""What a search may be after: the metrics of each kind of model, their directions and meanings."""

from __future__ import annotations

from collections.abc import Mapping

Metrics = Mapping[str, tuple[str, str]]
"""Metric name -> (direction ``max`` or ``min``, meaning)."""

CLASSIFICATION: Metrics = {
    "macro_f1": ("max", "mean over the classes of F1; every class counts the same"),
    "balanced_accuracy": ("max", "mean over the classes of recall"),
    "accuracy": ("max", "share of cases classified right; read it beside the constant-class baseline"),
    "macro_auroc": ("max", "mean over the classes of the one-vs-rest area under the ROC curve"),
    "macro_ap": ("max", "mean over the classes of the one-vs-rest average precision"),
    "mcc": ("max", "Matthews correlation of labels and predictions, 0 for a constant class"),
    "nll": ("min", "negative log-likelihood of the right class, nats per case"),
    "brier": ("min", "squared distance of the probabilities from the truth, summed over the classes"),
    "ece": ("min", "expected calibration error of the predicted class, 15 bins"),
}
"""Reports of classifiers also carry ``recall_<class>`` per class."""

GENERATION: Metrics = {
    "cmmd": ("min", "mean over the classes of the unbiased squared MMD of samples and real images, x 1000"),
    "coverage": ("max", "mean over the classes of the share of real images that have a sample near them"),
}
"""Reports of generators also carry ``cmmd_<class>`` per class, ``copies``, ``recognised``
and ``recognised_<class>``."""


def directions(metrics: Metrics) -> dict[str, str]:
    """Return metric name -> direction: what a space's ``objective:`` may name; the first is what it is by default."""
    return {name: direction for name, (direction, _) in metrics.items()}


def direction(metric: object) -> str:
    """Return a metric's direction, whatever kind of model it is of; ``max`` for what is not in a table."""
    known = directions({**CLASSIFICATION, **GENERATION})
    return known.get(metric, "max") if isinstance(metric, str) else "max"


def sign(metric: object) -> int:
    """Return 1 where more is better, -1 where less is: a difference times it is positive where it is a gain."""
    return 1 if direction(metric) == "max" else -1
