"""Shift between the official parts of a source: whether test or validation differ from training.

Each class is compared separately, so that different shares of the classes do not count as different pictures. A linear
classifier of the part is cross-validated on the properties of each file (size, type, mode, brightness, thumbnail, as
far as known); a group is never divided between folds. A high AUROC means that scores on that part are measured on
another distribution. Shares of the classes are compared by themselves. Models and thresholds do not depend on either.

The alarm: AUROC of at least `LEAST`, and at least `SIGMAS` standard errors of a random classifier above 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungtune.data import fingerprint

if TYPE_CHECKING:
    import pandas as pd

LEAST = 0.70
SIGMAS = 4.0
LEAST_SHARE = 0.10
"""Least difference in the share of a class that is reported."""

_LEAST_GROUPS = 10  # of each part: with fewer nothing is measured
_MOST = 1500  # cases of a class and part that are used
_FOLDS = 5
_NUMBERS = (
    ("width", "width"),
    ("height", "height"),
    ("aspect ratio", ""),
    ("brightness", "mean"),
    ("contrast", "spread"),
)
_WORDS = (("file type", "type"), ("mode", "mode"))


@dataclass(frozen=True)
class Shift:
    """Difference between training and another official part, in the cases of one class.

    Attributes:
        part: `validation` or `test`.
        label: the class; empty in data without classes.
        auroc: of the cross-validated classifier of the part, 0..1; 0.5 is no difference.
        threshold: AUROC from which on it is an alarm.
        alarm: True if the threshold is passed.
        example: the property that differs most, in words; empty if only the thumbnails do.
    """

    part: str
    label: str
    auroc: float
    threshold: float
    alarm: bool
    example: str


def measure(cases: pd.DataFrame, facts: pd.DataFrame, groups: Sequence[str] | np.ndarray) -> list[Shift]:
    """Compare the official validation and test part with the training part.

    Args:
        cases: the case table.
        facts: result of `scan`, same order; unreadable cases are left out.
        groups: `(N,)` group names; a group in two parts is left out.

    Returns:
        One entry per part and class with at least 10 groups in both.
    """
    parts, labels, numbers = _arrays(cases, groups)
    readable = facts["error"].isna().to_numpy()
    shifts = []
    for part in ("validation", "test"):
        both = set(numbers[parts == part]) & set(numbers[parts == "train"])
        apart = readable & ~np.isin(numbers, list(both))
        for label in np.unique(labels):
            rows = [np.flatnonzero(apart & (labels == label) & (parts == name)) for name in ("train", part)]
            counts = [len(np.unique(numbers[each])) for each in rows]
            if min(counts) < _LEAST_GROUPS:
                continue
            chosen = np.concatenate([_some(each) for each in rows])
            other = parts[chosen] == part
            auroc = _cross_validated(_features(facts.iloc[chosen]), other, numbers[chosen])
            error = float(np.sqrt((sum(counts) + 1) / (12 * counts[0] * counts[1])))
            threshold = round(max(LEAST, 0.5 + SIGMAS * error), 4)
            example = _example(facts.iloc[chosen], other, part)
            shifts.append(Shift(part, str(label), round(auroc, 4), threshold, auroc >= threshold, example))
    return shifts


def warnings(shifts: Sequence[Shift], cases: pd.DataFrame, groups: Sequence[str] | np.ndarray) -> list[str]:
    """Return a sentence for each part that differs from training, and for each with other shares of the classes."""
    sentences = []
    for part in ("validation", "test"):
        alarms = sorted((s for s in shifts if s.part == part and s.alarm), key=lambda shift: -shift.auroc)
        if alarms:
            worst = alarms[0]
            of = f"'{worst.label}' images" if worst.label else "images"
            more = f"; so do those of {', '.join(repr(s.label) for s in alarms[1:])}" if alarms[1:] else ""
            sentences.append(
                f"The official {part} part differs from training: its {of} are recognised among those of training with "
                f"AUROC {worst.auroc:.2f} (alarm from {worst.threshold:.2f}) by files and thumbnails alone"
                f"{f', most by {worst.example}' if worst.example else ''}{more}. Scores on it are scores on another "
                "distribution. Add ',official=no' to the data source to draw all parts anew."
            )
    for part, text in _shares(cases, groups):
        sentences.append(
            f"The official {part} part has other shares of the classes than training: {text}. Accuracy and precision "
            "depend on them; ',official=no' draws all parts anew."
        )
    return sentences


def _arrays(cases: pd.DataFrame, groups: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return official part, class (empty without) and group number of every case; part is empty without any."""
    official = cases["split"].notna().any()
    parts = cases["split"].where(cases["split"].notna(), "train" if official else "").to_numpy(dtype=str)
    labels = cases["label"].where(cases["label"].notna(), "").to_numpy(dtype=str)
    return parts, labels, np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]


def _some(rows: np.ndarray) -> np.ndarray:
    return rows if len(rows) <= _MOST else np.sort(np.random.default_rng(0).choice(rows, _MOST, replace=False))


def _features(facts: pd.DataFrame) -> np.ndarray:
    """Return the properties of the files, standardised, float64 `(N, F)`."""
    columns = [values[:, None] for _, values in _numbers(facts)]
    columns += [(words[:, None] == np.unique(words)[None, :8]) for _, words in _words(facts)]
    previews = np.stack([np.frombuffer(each, np.uint8) for each in facts["preview"]]).astype(np.float32)
    side = round(previews.shape[1] ** 0.5)
    pictures = fingerprint.equalised(fingerprint.pictures(list(facts["fingerprint"])))
    columns.append(fingerprint.reduced(previews.reshape(-1, side, side), 8).reshape(len(facts), -1))
    columns.append(fingerprint.reduced(pictures, 12).reshape(len(facts), -1))
    features = np.concatenate([np.asarray(each, dtype=np.float64) for each in columns], axis=1)
    spread = features.std(axis=0)
    return (features[:, spread > 0] - features.mean(axis=0)[spread > 0]) / spread[spread > 0]


def _numbers(facts: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    for name, column in _NUMBERS:
        if column and column not in facts:
            continue
        width, height = (facts[side].to_numpy(dtype=np.float64) for side in ("width", "height"))
        yield name, facts[column].to_numpy(dtype=np.float64) if column else np.round(width / height, 2)


def _words(facts: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    for name, column in _WORDS:
        yield name, facts[column].to_numpy(dtype=str)


def _cross_validated(features: np.ndarray, other: np.ndarray, groups: np.ndarray) -> float:
    """Return the mean AUROC over folds of a ridge classifier of `other`, bool `(N,)`."""
    folds = np.empty(len(other), dtype=np.int64)
    rng = np.random.default_rng(0)
    for side in (False, True):
        names = rng.permutation(np.unique(groups[other == side]))
        place = {name: k % _FOLDS for k, name in enumerate(names)}
        folds[other == side] = [place[name] for name in groups[other == side]]
    scores = []
    for fold in range(_FOLDS):
        held = folds == fold
        x, y = features[~held], other[~held]
        weights = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        signs = np.where(y, 1.0, -1.0)
        gram = (x * weights[:, None]).T @ x + len(x) * np.eye(x.shape[1])
        direction = np.linalg.solve(gram, (x * weights[:, None]).T @ signs)
        scores.append(_auroc(features[held] @ direction, other[held]))
    return float(np.mean(scores))


def _auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the AUROC of values; ties count half."""
    _, place, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    count = int(positive.sum())
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(values) - count)))


def _example(facts: pd.DataFrame, other: np.ndarray, part: str) -> str:
    """Return the property whose values differ most, in words."""
    differences: list[tuple[float, str]] = []
    for name, values in _numbers(facts):
        medians = [float(np.median(values[other == side])) for side in (False, True)]
        text = f"{name} (medians {medians[0]:.4g} in training, {medians[1]:.4g} in {part})"
        differences.append((abs(_auroc(values, other) - 0.5), text))
    for name, words in _words(facts):
        for word in np.unique(words):
            shares = [float((words[other == side] == word).mean()) for side in (False, True)]
            text = f"{name} {word} ({shares[0]:.0%} in training, {shares[1]:.0%} in {part})"
            differences.append((abs(shares[1] - shares[0]) / 2, text))
    return max(differences)[1] if differences and max(differences)[0] >= 0.1 else ""


def _shares(cases: pd.DataFrame, groups: Sequence[str] | np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield parts with other shares of the classes than training, beyond the chance of so many groups; and the gap."""
    parts, labels, numbers = _arrays(cases, groups)
    names = np.unique(labels)
    if len(names) < 2:
        return
    for part in ("validation", "test"):
        inside = [parts == "train", parts == part]
        sizes = np.array([len(np.unique(numbers[rows])) for rows in inside])
        if sizes.min() < _LEAST_GROUPS:
            continue
        shares = np.array([[(labels[rows] == name).mean() for name in names] for rows in inside])
        pooled = sizes @ shares / sizes.sum()
        error = np.sqrt(pooled * (1 - pooled) * (1 / sizes).sum())
        gaps = np.abs(shares[1] - shares[0])
        k = int(gaps.argmax())
        if gaps[k] >= max(LEAST_SHARE, SIGMAS * error[k]):
            yield part, f"'{names[k]}' is {shares[0][k]:.0%} of training and {shares[1][k]:.0%} of {part}"
