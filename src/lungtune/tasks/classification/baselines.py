"""Baselines without pixels: constant classes, and a random forest on file properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import interval, paired


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
        train: column -> ``(M,)`` of the training fold: numbers as they are, words as categories. ``width`` and
            ``height`` give the aspect ratio as well.
        train_labels: ``(M,)``.
        scored: the same columns ``(N,)`` of the cases to score.
        classes: the C names.

    Returns:
        Probabilities ``(N, C)``; the training shares where all training files have equal properties.
    """
    from sklearn.ensemble import RandomForestClassifier

    count = len(next(iter(scored.values())))
    seen, asked = _table(train, train), _table(scored, train)
    if (seen == seen[:1]).all():
        return prior(train_labels, len(classes), count)
    forest = RandomForestClassifier(200, min_samples_leaf=5, class_weight="balanced", random_state=0)
    forest.fit(seen, train_labels)
    probabilities = np.zeros((count, len(classes)))
    probabilities[:, forest.classes_] = forest.predict_proba(asked)
    return probabilities


def _table(columns: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return numbers ``(N, K)``: a column a number, a column a word of the training fold."""
    features = []
    for name, values in columns.items():
        values = np.asarray(values)
        if values.dtype.kind in "iufb":
            features.append(values.astype(np.float64))
        else:
            features += [values.astype(str) == word for word in np.unique(np.asarray(train[name]).astype(str))]
    if {"width", "height"} <= columns.keys():
        width, height = (np.asarray(columns[side], np.float64) for side in ("width", "height"))
        features.append(width / np.maximum(height, 1))
    return np.stack(features, axis=1).astype(np.float64)


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
        return missing(f"{what} was not scored: none of these cases can be.")
    labels, probabilities, baseline = labels[rows], probabilities[rows], baseline[rows]
    ids = np.asarray(patients)[rows]
    floor, model = interval(labels, baseline, ids), interval(labels, probabilities, ids)
    gain = paired(labels, probabilities, baseline, ids)
    sentence = f"{what} scores {floor.value:.3f} macro-F1, the model {model.value:.3f} on the same cases: "
    bounds = f" ({gain.low:+.3f} to {gain.high:+.3f})" if gain.low == gain.low else ""
    if gain.low > 0:
        sentence += f"{gain.value:+.3f}{bounds}."
    else:
        sentence += f"{gain.value:+.3f}{bounds}, so the score does not show that the model reads the lungs."
    if left_out := int((~rows).sum()):
        sentence += f" {left_out} cases are left out of this."
    return {
        "computed": True,
        "cases": len(labels),
        "left_out": left_out,
        "baseline": floor.to_dict(),
        "model": model.to_dict(),
        "gain": gain.to_dict(),
        "metrics": metrics.classification(labels, baseline, classes),
        "sentence": sentence,
    }


def missing(sentence: str) -> dict[str, Any]:
    """Return the report entry of a baseline that was not computed: the reason and how to get it."""
    return {"computed": False, "sentence": sentence}
