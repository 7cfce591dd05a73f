"""Confusion matrix and ROC curves as PNG. Thread-safe: uses neither a display nor pyplot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lungtune.tasks import curves


def confusion_png(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], title: str = "") -> bytes:
    """Draw the confusion matrix: counts, coloured by the share of each true class.

    Args:
        labels: ``(N,)`` true class numbers.
        probabilities: ``(N, C)`` class probabilities; the largest is the prediction.
        classes: ``C`` names.
        title: a line above the figure.

    Raises:
        ValueError: the shapes don't fit.
    """
    labels, probabilities = _checked(labels, probabilities, classes)
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(counts, (labels, probabilities.argmax(axis=1)), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.75 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), dpi=curves.DPI, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        text = f"{count}\n{share[row, column]:.0%}" if count else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    names = [name.replace("_", " ") for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    return curves.png(figure)


def roc_png(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], title: str = "") -> bytes:
    """Draw one ROC curve per class against the rest, with its area; a class without cases of both kinds is left out.

    Args:
        labels: ``(N,)`` true class numbers.
        probabilities: ``(N, C)`` class probabilities.
        classes: ``C`` names.
        title: a line above the figure.

    Raises:
        ValueError: the shapes don't fit.
    """
    labels, probabilities = _checked(labels, probabilities, classes)
    questions = {name: (labels == k, probabilities[:, k]) for k, name in enumerate(classes)}
    return curves.roc_png(questions, title, "class against rest, area")


def _checked(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = np.asarray(labels, dtype=np.int64), np.asarray(probabilities, dtype=np.float64)
    if labels.ndim != 1 or probabilities.shape != (len(labels), len(classes)):
        raise ValueError(
            f"probabilities must be (N, C) with N labels and C = {len(classes)} classes, "
            f"but got {probabilities.shape} for {labels.shape} labels."
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("probabilities must be finite, but some are NaN or infinite.")
    if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
        raise ValueError(f"labels must lie in 0 .. {len(classes) - 1}, but got {labels.min()} .. {labels.max()}.")
    return labels, probabilities
