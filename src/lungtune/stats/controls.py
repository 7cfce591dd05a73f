"""Comparison of a model with a control that sees no lungs, on the same cases, in any metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lungtune.core.task import Scorer
from lungtune.stats import bootstrap


def compared(
    model: Scorer, control: Scorer, metric: str, shown: str, what: str, left_out: int = 0, over: str = ""
) -> dict[str, Any]:
    """Compare two scorers of the same cases.

    Args:
        model: of the model.
        control: of the control.
        metric: higher is better.
        shown: its name in the sentence.
        what: the control, as the beginning of a sentence.
        left_out: cases that neither is scored on.
        over: which part of the metric is compared, a sentence, or empty.

    Returns:
        JSON-able: ``computed`` true, ``left_out``, ``baseline``, ``model`` and ``gain`` (the metric with intervals over
        patients, the gain paired), ``sentence``.
    """
    floor, score = (bootstrap.scored(each, metric) for each in (control, model))
    gain = bootstrap.between(model, control, metric)
    bounds = f" ({gain.low:+.3f} to {gain.high:+.3f})" if gain.low == gain.low else ""
    doubt = "" if gain.low > 0 else ", so the score does not show that the model reads the lungs"
    sentence = f"{what} scores {floor.value:.3f} {shown}, the model {score.value:.3f} on the same cases: "
    sentence += f"{gain.value:+.3f}{bounds}{doubt}."
    sentence += f" {left_out} cases are left out of this." if left_out else ""
    return {
        "computed": True,
        "left_out": left_out,
        "baseline": floor.to_dict(),
        "model": score.to_dict(),
        "gain": gain.to_dict(),
        "sentence": f"{sentence} {over}".rstrip(),
    }


def missing(sentence: str) -> dict[str, Any]:
    """Return the report entry of a control that was not computed: the reason and how to get it."""
    return {"computed": False, "sentence": sentence}


def learnable(labels: np.ndarray) -> np.ndarray:
    """Return which labels are present in some cases and absent in others, bool ``(L,)``, of labels ``(N, L)``."""
    result: np.ndarray = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    return result


def numbers(columns: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return file properties as numbers ``(N, K)``: a column a number, a column a word of the training fold.

    Args:
        columns: column -> ``(N,)``: numbers as they are, words as categories. ``width`` and ``height`` give the aspect
            ratio as well.
        train: the same columns ``(M,)`` of the training fold.
    """
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
