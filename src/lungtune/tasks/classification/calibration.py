"""Temperature scaling (Guo et al. 2017): one number, fitted on validation, calibrates the probabilities.

Probabilities become ``softmax(log(p) / T)``: T > 1 for a model surer than right. The order of the classes, and so
every prediction, stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtune.tasks.classification import metrics

LEAST, MOST = 0.05, 20.0
"""Range of the temperature's search."""

SHOWN = ("nll", "brier", "ece")
HOW = "p = softmax(log(p) / temperature), row by row; predictions stay as they are"


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature; ``note`` is one sentence on why it is unreliable, or empty."""

    value: float
    cases: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what ``temperature.json`` holds."""
        return {
            "temperature": self.value,
            "how": HOW,
            "fitted_on": "validation",
            "cases": self.cases,
            "note": self.note,
        }


def fit(labels: np.ndarray, probabilities: np.ndarray) -> Temperature:
    """Return the temperature of least negative log-likelihood.

    Args:
        labels: whole numbers ``(N,)`` of validation cases.
        probabilities: ``(N, C)``.

    Raises:
        TrialError: a probability is not finite.
        ValueError: shapes, labels or row sums are wrong.
    """
    from scipy.optimize import minimize_scalar

    labels, probabilities = metrics.check(labels, probabilities)
    logs = _logs(probabilities)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return float(-_log_softmax(logs * math.exp(-log_temperature))[rows, labels].mean())

    bounds = (math.log(LEAST), math.log(MOST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    if (logs[rows, labels] >= logs.max(axis=1)).all() or best.x - bounds[0] < 1e-3:  # the lower, the better, for ever
        note = (
            f"Validation does not determine a temperature: of its {len(labels)} cases every one, or nearly, is right. "
            "Probabilities are left as they are."
        )
        return Temperature(1.0, len(labels), note)
    if not loss(0.0) - best.fun > 1e-9:
        return Temperature(1.0, len(labels))
    note = "The model's probabilities are nearly uninformative: the best temperature makes all classes nearly equal."
    return Temperature(math.exp(best.x), len(labels), note if bounds[1] - best.x < 1e-3 else "")


def apply(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return ``softmax(log(p) / temperature)`` of probabilities ``(N, C)``."""
    result: np.ndarray = np.exp(_log_softmax(_logs(np.asarray(probabilities, dtype=np.float64)) / temperature))
    return result


def before_and_after(
    labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], temperature: Temperature, fitted_here: bool
) -> dict[str, Any]:
    """Return NLL, Brier score and ECE without and with a temperature.

    Args:
        fitted_here: the temperature was fitted on these cases, so ``after`` is optimistic.

    Returns:
        JSON-able: ``temperature``, ``fitted_cases``, ``fitted_here``, ``note``, ``before`` and ``after``
        {metric: value}.
    """
    before = metrics.classification(labels, probabilities, classes)
    after = metrics.classification(labels, apply(probabilities, temperature.value), classes)
    return {
        "temperature": temperature.value,
        "fitted_cases": temperature.cases,
        "fitted_here": fitted_here,
        "note": temperature.note,
        "before": {name: before[name] for name in SHOWN},
        "after": {name: after[name] for name in SHOWN},
    }


def _logs(probabilities: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.log(np.maximum(probabilities, metrics.FLOOR))
    return result


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
