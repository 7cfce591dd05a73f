"""What a model tells beyond its class probabilities: case-wise measures such as Dice, and further heads.

A session's prediction is a mapping: ``probabilities (N, C)``; from some families measures ``(N,)``, NaN where a case
has none (no mask to compare with); and further heads ``(N, C)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.stats import bootstrap
from lungtune.stats.bootstrap import Interval, draw, groups_of
from lungtune.tasks.classification import metrics


def mean(
    values: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of a case-wise measure with its interval over the patients that have one.

    Sensitivity and specificity are such means too: of hits, NaN where a case does not belong to the question.

    Args:
        values: ``(N,)``, NaN where a case has no value.
        patients: an id per case ``(N,)``.

    Returns:
        All NaN when no case has a value; no bounds when only one patient has.

    Raises:
        ValueError: shapes are wrong, or a value is infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or np.isinf(values).any():
        raise ValueError(
            f"A measure must be (N,), finite or NaN, but got {values.shape} and {np.isinf(values).sum()} inf."
        )
    has = ~np.isnan(values)
    ids = np.asarray(patients)
    if ids.shape != values.shape:
        raise ValueError(f"One patient per case must hold, but got {ids.shape} for {len(values)} cases.")
    if not has.any():
        return Interval(math.nan, math.nan, math.nan, level)
    groups = groups_of(ids[has], int(has.sum()))
    count = int(groups.max()) + 1
    value = float(values[has].mean())
    if count < 2:
        return Interval(value, math.nan, math.nan, level)
    weights = draw(count, draws, seed)
    drawn = weights @ np.bincount(groups, weights=values[has]) / (weights @ np.bincount(groups))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level)


def difference(
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of ``first - second`` over the cases where both have a value, with its interval over patients.

    Args as in :func:`mean`.
    """
    return mean(np.asarray(first, np.float64) - np.asarray(second, np.float64), patients, draws, seed, level)


def judge(
    extras: Mapping[str, np.ndarray],
    labels: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score what a prediction holds beside its ``probabilities``, which are left alone.

    Args:
        extras: name -> case-wise measure ``(N,)`` or probabilities of a further head ``(N, C)``.
        labels: whole numbers ``(N,)``.
        patients: an id per case ``(N,)``.
        classes: the C names.

    Returns:
        JSON-able ``measures`` {name: {value, low, high, level, cases}} and ``heads`` {name: {metric: {value, low,
        high, level}}}.

    Raises:
        ValueError: an array has neither of the shapes.
        TrialError: a head's probability is not finite.
    """
    found: dict[str, Any] = {}
    heads: dict[str, Any] = {}
    for name, values in ((name, np.asarray(values)) for name, values in extras.items() if name != "probabilities"):
        if values.shape == (len(labels),):
            found[name] = {**mean(values, patients).to_dict(), "cases": int(np.isfinite(values).sum())}
        elif values.shape == (len(labels), len(classes)):
            scores = bootstrap.intervals(labels, values, patients, classes)
            heads[name] = {metric: scores[metric].to_dict() for metric in metrics.METRICS}
        else:
            raise ValueError(
                f"'{name}' must hold a measure ({len(labels)},) or probabilities ({len(labels)}, {len(classes)}), "
                f"but is {values.shape}."
            )
    return found, heads
