"""Baseline without pixels: each label's prevalence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungtune.tasks.multilabel.predictions import plain


def prevalence_of(train: np.ndarray) -> np.ndarray:
    """Return each label's share of present among the known training cases ``(L,)``, one case of each side added."""
    present, absent = (train == 1).sum(axis=0) + 1.0, (train == 0).sum(axis=0) + 1.0
    result: np.ndarray = present / (present + absent)
    return result


def prevalence(train: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """Score the prevalences as every case's probabilities: the best NLL, Brier score and ECE of a blind model.

    Args:
        train: labels of the training fold ``(M, L)``.
        truth: labels of the cases to score ``(N, L)``.
        labels: the L names.

    Returns:
        The metrics of the task; ``macro_auroc`` is 0.5, ``macro_ap`` the mean share of present labels.
    """
    return plain(truth, np.tile(prevalence_of(train), (len(truth), 1)))
