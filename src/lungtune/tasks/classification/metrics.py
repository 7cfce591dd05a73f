"""Metrics of class probabilities on labelled cases. Light to import.

Written out in numpy, as scikit-learn's checks of its input cost 30 ms a report: more than a head trains in between.

Conventions, the same in every place that shows a score:

* The prediction is the class of the highest probability, the first of equals.
* A class that is neither in the labels nor predicted does not count in ``macro_f1``; predicted but absent, it counts
  with 0. ``balanced_accuracy`` averages over the classes in the labels. The recall of a class without cases is 0.
* ``macro_auroc`` is the mean of the one-vs-rest areas of the classes that have both cases and non-cases; 0.5 when
  there is none. ``macro_ap`` is the mean of the one-vs-rest average precisions of the classes in the labels; a blind
  model has the class's share of the cases. ``mcc`` is 0 when labels or predictions hold one class only.
* ``ece`` has 15 equal-width bins of the predicted class's probability, bins closed on the right (Guo et al. 2017).
* ``brier`` is the sum over the classes (0 best, 2 worst); ``nll`` is in nats, probabilities floored at 1e-12.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lungtune.errors import TrialError

if TYPE_CHECKING:
    import numpy as np

FLOOR = 1e-12
COLLAPSED_SHARE = 0.95
"""A model that gives one class to more than this share of the cases is called collapsed."""


def check(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``labels`` as int64 ``(N,)`` and ``probabilities`` as float64 ``(N, C)``, rows summing to 1.

    Raises:
        TrialError: a probability is not finite (reason ``nan``).
        ValueError: shapes, labels or row sums are wrong, or there is no case.
    """
    import numpy as np

    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(
            f"labels (N,) and probabilities (N, C) with N >= 1 must hold, but got {labels.shape} and "
            f"{probabilities.shape}."
        )
    bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if bad:
        raise TrialError("nan", f"The probabilities of {bad} of {len(labels)} cases are not finite.")
    sums = probabilities.sum(axis=1)
    if probabilities.min() < 0 or np.abs(sums - 1).max() > 0.01:
        raise ValueError(
            f"Probabilities must be >= 0 and sum to 1, but got a least value of {probabilities.min():g} "
            f"and sums from {sums.min():g} to {sums.max():g}. Were logits meant?"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise ValueError(
            f"Labels must be whole numbers in 0..{probabilities.shape[1] - 1}, but got {np.unique(labels)}."
        )
    sums[np.abs(sums - 1) < 1e-12] = 1  # checked before: dividing again would break ties by the last digit
    return labels.astype(np.int64), probabilities / sums[:, None]


def classification(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, float]:
    """Score probabilities: every metric of the task and ``recall_<class>`` for each class, all finite.

    Args:
        labels: whole numbers ``(N,)``, indices into ``classes``.
        probabilities: ``(N, C)``, rows summing to 1.
        classes: the C names.

    Raises:
        TrialError: a probability is not finite (reason ``nan``).
        ValueError: shapes, labels or row sums are wrong.
    """
    import numpy as np

    labels, probabilities = check(labels, probabilities)
    if len(classes) != probabilities.shape[1]:
        raise ValueError(
            f"One name per class must hold, but got {len(classes)} names, {probabilities.shape[1]} columns."
        )
    predicted = probabilities.argmax(axis=1)
    counts = confusion(labels, probabilities).astype(np.float64)
    hits, cases, called = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    f1 = 2 * hits / np.maximum(cases + called, 1)
    recalls = hits / np.maximum(cases, 1)
    # Gorodkin's correlation of K categories (Comput. Biol. Chem. 28, 2004).
    spread = (len(labels) ** 2 - (cases**2).sum()) * (len(labels) ** 2 - (called**2).sum())
    truth = np.eye(len(classes))[labels]
    areas, precisions = ranked(labels, probabilities)
    scores = {
        "macro_f1": f1[cases + called > 0].mean(),
        "balanced_accuracy": recalls[cases > 0].mean(),
        "accuracy": hits.sum() / len(labels),
        "macro_auroc": np.mean(list(areas.values()) or [0.5]),
        "macro_ap": np.mean(list(precisions.values())),
        "mcc": (hits.sum() * len(labels) - cases @ called) / spread**0.5 if spread else 0.0,
        "nll": -np.log(np.maximum(probabilities[np.arange(len(labels)), labels], FLOOR)).mean(),
        "brier": ((probabilities - truth) ** 2).sum(axis=1).mean(),
        "ece": _ece(labels, predicted, probabilities),
    }
    scores |= {f"recall_{name}": value for name, value in zip(classes, recalls, strict=True)}
    return {name: float(value) for name, value in scores.items()}


def ranked(labels: np.ndarray, probabilities: np.ndarray) -> tuple[dict[int, float], dict[int, float]]:
    """Return the rank metrics of each class's probabilities: areas under ROC curves, average precisions.

    The area is the share of (case, non-case) pairs in the right order, ties counting half: from the cases' ranks. The
    average precision is the mean over the cases of the precision at the threshold where each is retrieved; equal
    probabilities are retrieved together.

    Returns:
        Class -> area, of classes that have both cases and non-cases; class -> average precision, of classes that have
        cases.
    """
    import numpy as np

    areas, precisions = {}, {}
    for k in map(int, np.unique(labels)):
        own = labels == k
        _, place, ties = np.unique(-probabilities[:, k], return_inverse=True, return_counts=True)  # the surest first
        hits, called = np.bincount(place, weights=own, minlength=len(ties)), np.cumsum(ties)
        cases, true_positives = int(own.sum()), np.cumsum(hits)
        precisions[k] = float((hits * true_positives / called).sum() / cases)
        if others := len(labels) - cases:
            after = others - np.cumsum(ties - hits)
            areas[k] = float((hits * (after + (ties - hits) / 2)).sum() / (cases * others))
    return areas, precisions


def _ece(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> float:
    import numpy as np

    from lungtune.stats import binary

    confidence = probabilities.max(axis=1)
    weights = (predicted == labels) - confidence
    gap = np.bincount(binary.bins(confidence), weights=weights, minlength=binary.ECE_BINS)
    return float(np.abs(gap).sum() / len(labels))


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return counts ``(C, C)``: rows are the truth, columns the prediction."""
    import numpy as np

    labels, probabilities = check(labels, probabilities)
    count = probabilities.shape[1]
    pairs = labels * count + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def per_class(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return per class ``cases``, ``precision``, ``recall``, ``specificity``, ``f1``, one-vs-rest ``auroc`` and ``ap``.

    A ratio of nothing (a class without cases, or never predicted) is 0; an area that does not exist is 0.5.
    """
    labels, probabilities = check(labels, probabilities)
    counts = confusion(labels, probabilities)
    areas, precisions = ranked(labels, probabilities)
    table = {}
    for k, name in enumerate(classes):
        hit, cases, called = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        others = len(labels) - cases
        table[name] = {
            "cases": cases,
            "precision": hit / called if called else 0.0,
            "recall": hit / cases if cases else 0.0,
            "specificity": (others - called + hit) / others if others else 0.0,
            "f1": 2 * hit / (cases + called) if cases + called else 0.0,
            "auroc": areas.get(k, 0.5),
            "ap": precisions.get(k, 0.0),
        }
    return table


def collapsed(probabilities: np.ndarray) -> bool:
    """True if one class is predicted for more than 95 % of the cases."""
    import numpy as np

    predicted = np.asarray(probabilities).argmax(axis=1)
    return bool(np.bincount(predicted).max() > COLLAPSED_SHARE * len(predicted))


def collapse_sentence(probabilities: np.ndarray, classes: Sequence[str]) -> str:
    """Return a warning sentence with the class a model has collapsed onto, or an empty string."""
    import numpy as np

    if not collapsed(probabilities):
        return ""
    counts = np.bincount(np.asarray(probabilities).argmax(axis=1), minlength=len(classes))
    return (
        f"The model has collapsed: it predicts '{classes[int(counts.argmax())]}' for "
        f"{100 * counts.max() / counts.sum():.1f} % of the cases."
    )
