"""What a classifier that never looks at the image scores: the floor under every result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungtune.evaluate import metrics


def prior(train_labels: np.ndarray, classes: int, cases: int) -> np.ndarray:
    """Return the training shares of the classes as everyone's probabilities ``(cases, classes)``.

    One case is added to every class, so that none has probability 0 (Laplace's rule of succession).
    """
    counts = np.bincount(train_labels, minlength=classes) + 1.0
    return np.tile(counts / counts.sum(), (cases, 1))


def constant_class(train_labels: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Score the classifier that always says the most frequent class of the training fold.

    Its probabilities are the training shares, so its NLL, Brier score and ECE are the best a blind model can have.

    Args:
        train_labels: labels of the training fold ``(M,)``: the choice never looks at the cases it is scored on.
        labels: labels of the cases to score ``(N,)``.
        classes: the class names.

    Returns:
        The same metrics as :func:`lungtune.evaluate.metrics.classification`.
    """
    return metrics.classification(labels, prior(train_labels, len(classes), len(labels)), classes)


def majority(train_labels: np.ndarray, classes: Sequence[str]) -> str:
    """Return the most frequent class of the training fold, the first of equals."""
    return classes[int(np.bincount(train_labels, minlength=len(classes)).argmax())]


def every_constant(labels: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Score each "always this class" by what its predictions alone decide (no calibration metrics).

    A model whose scores equal one of these rows has learned nothing.
    """
    table = {}
    for k, name in enumerate(classes):
        certain = np.tile(np.eye(len(classes))[k], (len(labels), 1))
        scores = metrics.classification(labels, certain, classes)
        table[name] = {key: scores[key] for key in ("macro_f1", "balanced_accuracy", "accuracy")}
    return table
