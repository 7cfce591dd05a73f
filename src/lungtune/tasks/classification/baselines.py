"""Baselines without pixels: constant classes, and a random forest on file properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.stats import bootstrap, controls
from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import ProbabilityScorer


def prior(train_labels: np.ndarray, classes: int, cases: int) -> np.ndarray:
    """Return the training shares of the classes as the probabilities of every case ``(cases, classes)``.

    One case is added to every class, so that none has probability 0 (Laplace's rule of succession).
    """
    counts = np.bincount(train_labels, minlength=classes) + 1.0
    return np.tile(counts / counts.sum(), (cases, 1))


def constant_class(train_labels: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Score the classifier that always predicts the most frequent class of the training fold.

    Its probabilities are the training shares, so its NLL, Brier score and ECE are the best a blind model can have.

    Args:
        train_labels: labels of the training fold ``(M,)``; the class is chosen on them, not on the scored cases.
        labels: labels of the cases to score ``(N,)``.
        classes: the class names.

    Returns:
        The same metrics as :func:`lungtune.tasks.classification.metrics.classification`.
    """
    return metrics.classification(labels, prior(train_labels, len(classes), len(labels)), classes)


def majority(train_labels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the most frequent class of the training fold, the first of equals."""
    return classes[int(np.bincount(train_labels, minlength=len(classes)).argmax())]


def every_constant(labels: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Score each "always this class" by what its predictions alone decide (no calibration metrics).

    Equal scores of a model mean that it is constant.
    """
    table = {}
    for k, name in enumerate(classes):
        certain = np.tile(np.eye(len(classes))[k], (len(labels), 1))
        scores = metrics.classification(labels, certain, classes)
        table[name] = {key: scores[key] for key in ("macro_f1", "balanced_accuracy", "accuracy")}
    return table


def metadata(
    train: Mapping[str, np.ndarray], train_labels: np.ndarray, scored: Mapping[str, np.ndarray], classes: Sequence[str]
) -> np.ndarray:
    """Predict classes from file properties, without pixels, by a random forest.

    Args:
        train: column -> ``(M,)`` of the training fold; see :func:`lungtune.stats.controls.numbers`.
        train_labels: ``(M,)``.
        scored: the same columns ``(N,)`` of the cases to score.
        classes: the C names.

    Returns:
        Probabilities ``(N, C)``; the training shares where all training files have equal properties.
    """
    from sklearn.ensemble import RandomForestClassifier

    count = len(next(iter(scored.values())))
    seen, asked = controls.numbers(train, train), controls.numbers(scored, train)
    if (seen == seen[:1]).all():
        return prior(train_labels, len(classes), count)
    forest = RandomForestClassifier(200, min_samples_leaf=5, class_weight="balanced", random_state=0)
    forest.fit(seen, train_labels)
    probabilities = np.zeros((count, len(classes)))
    probabilities[:, forest.classes_] = forest.predict_proba(asked)
    return probabilities


def vs_baseline(
    labels: np.ndarray,
    probabilities: np.ndarray,
    baseline: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    what: str,
    rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare a model with a baseline on the same cases.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: the model's ``(N, C)``.
        baseline: the baseline's ``(N, C)``.
        patients: an id per case ``(N,)``.
        classes: the C names.
        what: the baseline, as the beginning of a sentence.
        rows: bool ``(N,)``, the cases both are scored on; by default all. Other rows of ``baseline`` are ignored.

    Returns:
        JSON-able: ``computed`` true, ``cases``, ``left_out``, ``baseline``, ``model`` and ``gain`` (macro-F1 with
        intervals over patients, the gain paired), ``metrics`` of the baseline {metric: value}, ``sentence``.
    """
    rows = np.ones(len(labels), bool) if rows is None else np.asarray(rows, bool)
    if not rows.any():
        return controls.missing(f"{what} was not scored: none of these cases can be.")
    labels, probabilities, baseline = labels[rows], probabilities[rows], baseline[rows]
    groups = bootstrap.groups_of(np.asarray(patients)[rows], len(labels))
    model, blind = (ProbabilityScorer(labels, each, groups) for each in (probabilities, baseline))
    compared = controls.compared(model, blind, "macro_f1", "macro-F1", what, int((~rows).sum()))
    return {**compared, "cases": len(labels), "metrics": metrics.classification(labels, baseline, classes)}
