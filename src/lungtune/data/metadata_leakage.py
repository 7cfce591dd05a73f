"""Leakage of the class through file properties (type, mode, size, origin) and metadata (site, scanner, view, sex, age).

In public collections each class often comes from another hospital, so file type, size, mode, aspect ratio or, where
it is known, the archive reveal the class, and a model learns the archive instead of the lung. A small decision
tree is cross-validated (whole groups, 5 folds) on each property; its balanced accuracy is compared with guessing.

The alarm threshold: at least `LEAST_GAIN` above chance and at least `SIGMAS` standard errors of a guesser. On 375
sets of random metadata (60 to 6,000 cases, 2 to 6 classes, groups of alike cases) it was passed 2 times in 1,875.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungtune.data import metadata

if TYPE_CHECKING:
    import pandas as pd

LEAST_GAIN = 0.10
SIGMAS = 4.0
FEATURES = ("file type", "mode", "width", "height", "depth", "aspect ratio", "origin", *metadata.NAMES)


@dataclass(frozen=True)
class Leakage:
    """Predictability of the class from one file property.

    Attributes:
        feature: one of `FEATURES`.
        balanced_accuracy: of a cross-validated depth-3 tree, 0..1.
        chance: 1 / number of classes.
        threshold: balanced accuracy from which on it is an alarm.
        cramers_v: association of the property (in at most 8 bins) and the class, 0..1.
        alarm: True if the threshold is passed.
        example: the most predictive value, in words.
    """

    feature: str
    balanced_accuracy: float
    chance: float
    threshold: float
    cramers_v: float
    alarm: bool
    example: str


def measure_leakage(
    labels: Sequence[str],
    facts: pd.DataFrame,
    groups: Sequence[str],
    origins: Sequence[str] | None = None,
    details: Mapping[str, Sequence[str | float | None]] | None = None,
) -> list[Leakage]:
    """Measure every property in `FEATURES`.

    Args:
        labels: `(N,)` class names.
        facts: N rows of readable images.
        groups: `(N,)` group names.
        origins: `(N,)` names of the archives the images came from, where known.
        details: name of the metadata -> `(N,)` values, None where unknown; that it is unknown counts as a value.

    Returns:
        One entry per property that varies; empty with fewer than 2 classes, 10 cases or 2 groups.
    """
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    _, numbers = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) < 2 or len(codes) < 10 or numbers.max() < 1:
        return []
    units = np.bincount(np.unique(np.stack([codes, numbers]), axis=1)[0])  # groups per class: cases in one are alike
    chance = 1 / len(names)
    error = float(np.sqrt((chance * (1 - chance) / units).sum())) / len(names)
    threshold = chance + max(LEAST_GAIN, SIGMAS * error)
    leakages = []
    for feature, values, shown in [*_columns(facts, origins), *_details(details or {})]:
        if len(np.unique(values)) < 2:
            continue
        accuracy = _cross_validated(values, codes, numbers)
        leakages.append(
            Leakage(
                feature,
                round(accuracy, 4),
                round(chance, 4),
                round(threshold, 4),
                round(_cramers_v(values, codes), 4),
                accuracy >= threshold,
                _example(shown, codes, names),
            )
        )
    return leakages


def _columns(facts: pd.DataFrame, origins: Sequence[str] | None) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return per property its name, a number per case and what to show of it."""
    width, height = (facts[side].to_numpy(dtype=np.float64) for side in ("width", "height"))
    aspect = np.round(width / height, 2)
    words = [("file type", facts["type"].to_numpy(dtype=str)), ("mode", facts["mode"].to_numpy(dtype=str))]
    if origins is not None:
        words.append(("origin", np.asarray(origins, dtype=str)))
    first, second, *rest = [(name, np.unique(v, return_inverse=True)[1].astype(float), v) for name, v in words]
    depth = facts["depth"].to_numpy(dtype=np.float64)  # 0 of images: what does not vary is left out
    numbers = [("width", width), ("height", height), ("depth", depth), ("aspect ratio", aspect)]
    return [first, second, *((name, values, values) for name, values in numbers), *rest]


def _details(details: Mapping[str, Sequence[str | float | None]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the same of metadata; an unknown number is -1."""
    columns = []
    for name, values in details.items():
        if name == "age":
            shown = np.array([-1.0 if value is None else value for value in values], dtype=np.float64)
            columns.append((name, shown, shown))
        else:
            words = np.array(["unknown" if value is None else value for value in values], dtype=str)
            columns.append((name, np.unique(words, return_inverse=True)[1].astype(float), words))
    return columns


def _cross_validated(values: np.ndarray, codes: np.ndarray, groups: np.ndarray) -> float:
    from sklearn.model_selection import GroupKFold
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=3, min_samples_leaf=5, class_weight="balanced", random_state=0)
    predicted = np.empty_like(codes)
    folds = GroupKFold(n_splits=min(5, int(groups.max()) + 1), shuffle=True, random_state=0)
    for train, test in folds.split(codes, codes, groups):
        predicted[test] = tree.fit(values[train, None], codes[train]).predict(values[test, None])
    hits = np.bincount(codes, weights=predicted == codes)
    return float((hits / np.bincount(codes)).mean())


def _cramers_v(values: np.ndarray, codes: np.ndarray) -> float:
    """Bias-corrected Cramer's V of `values` (cut at quantiles when there are more than 8) and classes."""
    distinct = np.unique(values)
    if len(distinct) > 8:
        edges = np.unique(np.quantile(values, np.linspace(0, 1, 9)[1:-1]))
        bins = np.searchsorted(edges, values)
    else:
        bins = np.searchsorted(distinct, values)
    bins = np.unique(bins, return_inverse=True)[1]
    table = np.zeros((bins.max() + 1, codes.max() + 1))
    np.add.at(table, (bins, codes), 1)
    n = table.sum()
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / n
    phi = float(((table - expected) ** 2 / expected).sum() / n)
    rows, columns = table.shape
    phi = max(0.0, phi - (rows - 1) * (columns - 1) / (n - 1))
    rows, columns = (side - (side - 1) ** 2 / (n - 1) for side in (rows, columns))
    least = min(rows, columns) - 1
    return float(np.sqrt(phi / least)) if least > 0 else 0.0


def _example(shown: np.ndarray, codes: np.ndarray, names: np.ndarray) -> str:
    """Return the class whose typical value differs most from the others'."""
    if shown.dtype.kind != "f":
        best = ("", 0.0)
        for value in np.unique(shown):
            for code, name in enumerate(names):
                inside = float((shown[codes == code] == value).mean())
                outside = float((shown[codes != code] == value).mean())
                if inside - outside > best[1]:
                    best = (f"{value}: {inside:.0%} of {name}, {outside:.0%} of the others", inside - outside)
        return best[0]
    medians = [(float(np.median(shown[codes == code])), str(name)) for code, name in enumerate(names)]
    return "medians " + ", ".join(f"{name} {median:g}" for median, name in medians)
