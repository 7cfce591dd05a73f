"""ROC curves of yes-or-no questions as PNG. Thread-safe: uses neither a display nor pyplot."""

from __future__ import annotations

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import auc, roc_curve

DPI = 110


def roc_png(questions: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, legend: str) -> bytes:
    """Draw one ROC curve per question, with its area; a question without cases of both kinds is left out.

    Args:
        questions: name -> (positive, bool ``(N,)``; score ``(N,)``).
        title: a line above the figure.
        legend: its title.
    """
    figure = Figure(figsize=(5.6, 5.2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if len(questions) > 10:  # the default has ten colours
        axes.set_prop_cycle(color=matplotlib.colormaps["tab20"].colors)  # type: ignore[attr-defined]
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle="--")
    for name, (positive, score) in questions.items():
        if positive.any() and not positive.all():
            false, true, _ = roc_curve(positive, score)
            axes.plot(false, true, linewidth=1.8, label=f"{name.replace('_', ' ')}  {auc(false, true):.3f}")
    span = (-0.01, 1.01)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title, xlim=span, ylim=span)
    axes.set_aspect("equal")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(title=legend, loc="lower right", fontsize=9 if len(questions) <= 8 else 7)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
