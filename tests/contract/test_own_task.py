"""The custom multi-label task: scores equal scikit-learn's; bootstrap draws in one call."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from lungtune import catalog
from lungtune.stats import bootstrap


def kept(cases: int) -> Any:
    """Return predictions of three findings, a fifth of one unknown, with ties."""
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, (cases, 3)).astype(np.float32)
    truth[::5, 2] = np.nan
    predicted = random.uniform(0.05, 0.95, (cases, 3)).round(1).astype(np.float32)
    task = catalog.family("multilabel_head").task("findings")
    held = task.predictions({"truth": truth, "findings": predicted})
    assert held is not None
    return SimpleNamespace(truth=truth, said=predicted, scorer=held.scorer)


def test_scores_are_scikit_learns_on_drawn_patients() -> None:
    result, groups = kept(40), np.arange(40) % 13
    scorer = result.scorer(groups)
    weights = bootstrap.draw(13, 20, seed=1)
    areas, losses = scorer.score("macro_auroc", weights), scorer.score("bce", weights)
    for row, each in enumerate(weights):
        known = [~np.isnan(column) for column in result.truth.T]
        labels = [(t[k], p[k], each[groups][k]) for t, p, k in zip(result.truth.T, result.said.T, known, strict=True)]
        assert areas[row] == pytest.approx(np.mean([roc_auc_score(t, p, sample_weight=w) for t, p, w in labels]))
        flat = (np.concatenate(column) for column in zip(*labels, strict=True))
        truth, output, times = flat
        assert losses[row] == pytest.approx(log_loss(truth, output.astype(float), sample_weight=times), rel=1e-5)
    left = scorer.outside("macro_auroc", weights)
    assert left == pytest.approx(scorer.score("macro_auroc", (weights == 0).astype(int)))


def test_interval_of_a_thousand_draws_takes_under_a_second() -> None:
    began = time.process_time()
    bootstrap.scored(kept(300).scorer(np.arange(300)), "macro_auroc")
    assert time.process_time() - began < 1
