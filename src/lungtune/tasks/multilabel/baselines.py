"""Baselines without pixels: each label's prevalence, and random forests on file properties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.core import environment
from lungtune.stats import bootstrap, controls
from lungtune.tasks.multilabel.predictions import LabelScorer, counted, known_labels, plain


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


def metadata(train: Mapping[str, np.ndarray], labels: np.ndarray, scored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Predict labels from file properties, without pixels, by a random forest a label on its known cases.

    Args:
        train: column -> ``(M,)`` of the training fold; see :func:`lungtune.stats.controls.numbers`.
        labels: of the training fold ``(M, L)``.
        scored: the same columns ``(N,)`` of the cases to score.

    Returns:
        Probabilities ``(N, L)``; the prevalence where all training files have equal properties, or where a label is
        never present or never absent.
    """
    from sklearn.ensemble import RandomForestClassifier

    seen, asked = controls.numbers(train, train), controls.numbers(scored, train)
    probabilities = np.tile(prevalence_of(labels), (len(asked), 1))
    if (seen == seen[:1]).all():
        return probabilities
    known = known_labels(labels)
    for k in np.flatnonzero(controls.learnable(labels)):
        rows = known[:, k]
        forest = RandomForestClassifier(
            200, min_samples_leaf=5, class_weight="balanced", random_state=0, n_jobs=environment.cores()
        )
        probabilities[:, k] = forest.fit(seen[rows], labels[rows, k] == 1).predict_proba(asked)[:, 1]
    return probabilities


def versus(
    truth: np.ndarray,
    probabilities: np.ndarray,
    baseline: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    train: np.ndarray,
    names: Sequence[str],
    what: str,
    rows: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare a model with a baseline on the same cases, over the labels that the baseline could learn.

    Args:
        truth: ``(N, L)``.
        probabilities: the model's ``(N, L)``.
        baseline: the baseline's ``(N, L)``.
        patients: an id per case ``(N,)``.
        train: labels of the cases that the baseline was trained on ``(M, L)``: it could learn those that are present in
            one case and absent in another.
        names: the L names.
        what: the baseline, as the beginning of a sentence.
        rows: bool ``(N,)``, the cases both are scored on; by default all. Other rows of ``baseline`` are ignored.

    Returns:
        JSON-able: :func:`lungtune.stats.controls.compared` in macro-AUROC, ``cases``, and ``metrics`` of the baseline
        {metric: value}; or ``missing``.
    """
    rows = np.ones(len(truth), bool) if rows is None else np.asarray(rows, bool)
    truth, probabilities, baseline = truth[rows].copy(), probabilities[rows], baseline[rows]
    truth[:, ~controls.learnable(train)] = np.nan
    scored = counted(truth)
    if not scored.any():
        return controls.missing(f"{what} was not scored: no label is both present and absent in its cases.")
    groups = bootstrap.groups_of(np.asarray(patients)[rows], len(truth))
    model, blind = (LabelScorer(truth, each, groups) for each in (probabilities, baseline))
    over = "" if scored.all() else f"Both are means over {scored.sum()} of {len(names)} labels."
    compared = controls.compared(model, blind, "macro_auroc", "macro-AUROC", what, int((~rows).sum()), over)
    return {**compared, "cases": len(truth), "metrics": plain(truth, baseline)}
