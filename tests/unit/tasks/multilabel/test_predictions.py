"""Metrics of label probabilities against scikit-learn's, on all cases and on drawn patients."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, log_loss, roc_auc_score

from lungtune.core.fields import UNCERTAIN
from lungtune.errors import TrialError
from lungtune.stats import bootstrap
from lungtune.tasks.multilabel import METRICS, baselines, calibration
from lungtune.tasks.multilabel.predictions import LabelProbabilities, LabelScorer, interval, left_out, plain

NAMES = ("effusion", "nodule", "mass", "hernia")


def drawn(cases: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return truth, with uncertain and unknown labels and one rare label, and informative probabilities with ties."""
    random = np.random.default_rng(0)
    truth = (random.uniform(size=(cases, 4)) < (0.4, 0.3, 0.2, 0.0)).astype(np.float32)
    truth[:2, 3] = 1
    logits = 1.5 * (truth - 0.5) + random.normal(size=truth.shape)
    truth[::7, 0], truth[::5, 1] = UNCERTAIN, np.nan
    return truth, (1 / (1 + np.exp(-logits))).round(2)


def known(truth: np.ndarray, k: int) -> np.ndarray:
    return (truth[:, k] == 0) | (truth[:, k] == 1)


def test_metrics_are_scikit_learns():
    truth, p = drawn()
    scores = plain(truth, p)
    pairs = [(truth[known(truth, k), k], p[known(truth, k), k]) for k in range(4)]
    assert scores["macro_auroc"] == pytest.approx(np.mean([roc_auc_score(*pair) for pair in pairs[:3]]))
    assert scores["macro_ap"] == pytest.approx(np.mean([average_precision_score(*pair) for pair in pairs[:3]]))
    assert scores["nll"] == pytest.approx(np.mean([log_loss(*pair) for pair in pairs]), rel=1e-6)
    assert scores["brier"] == pytest.approx(np.mean([brier_score_loss(*pair) for pair in pairs]))
    assert set(scores) == set(METRICS)


def test_calibration_error_is_that_of_its_definition():
    truth, p = drawn()
    errors = []
    for k in range(4):
        t, q = truth[known(truth, k), k], p[known(truth, k), k]
        places = np.clip(np.ceil(q * 15).astype(int) - 1, 0, 14)
        gaps = [(t - q)[places == b].sum() for b in range(15)]
        errors.append(np.abs(gaps).sum() / len(t))
    assert plain(truth, p)["ece"] == pytest.approx(np.mean(errors))


def test_scores_on_drawn_patients_are_weighted():
    truth, p = drawn(90)
    groups = np.arange(90) % 17
    scorer, weights = LabelScorer(truth, p, groups), bootstrap.draw(17, 12, seed=1)
    for metric in METRICS:
        got = scorer.score(metric, weights)
        for row, each in enumerate(weights):
            again = np.repeat(np.arange(90), each[groups])
            lone = LabelScorer(truth[again], p[again], np.arange(len(again)))
            lone.counted = scorer.counted
            assert got[row] == pytest.approx(bootstrap.plain(lone, metric)), metric
    assert scorer.outside("nll", weights) == pytest.approx(scorer.score("nll", (weights == 0).astype(int)))


def test_labels_with_few_cases_are_named_and_left_out():
    truth, p = drawn()
    assert left_out(truth, NAMES).endswith("fewer than 5 known positive or negative cases: hernia.")
    assert not left_out(truth[:, :3], NAMES[:3])
    lone = LabelScorer(truth, p, np.arange(200))
    assert bootstrap.plain(lone, "auroc_3") == pytest.approx(roc_auc_score(truth[:, 3], p[:, 3]))
    assert lone.counted.tolist() == [True, True, True, False]


def test_without_any_frequent_label_those_of_both_kinds_count():
    truth, p = drawn()
    assert plain(truth[:10, 3:], p[:10, 3:])["macro_auroc"] == pytest.approx(roc_auc_score(truth[:10, 3], p[:10, 3]))
    assert plain(np.zeros((4, 2)), p[:4, :2])["macro_auroc"] == 0.5


def test_interval_holds_the_value_and_narrows_with_cases():
    few, many = (interval(*drawn(cases), np.arange(cases)) for cases in (60, 600))
    assert few.low < few.value < few.high
    assert many.high - many.low < few.high - few.low


def test_probabilities_that_are_not_finite_are_a_divergence():
    truth, p = drawn(4)
    with pytest.raises(TrialError, match="1 of 4 cases are not finite"):
        LabelScorer(truth, np.where(np.arange(4)[:, None] == 1, np.nan, p), np.arange(4))


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"'macro_aurok' is not a metric.*macro_auroc"):
        LabelScorer(*drawn(5), np.arange(5)).score("macro_aurok", np.ones((1, 5), int))


def test_equal_probabilities_are_a_collapse():
    truth, p = drawn(6)
    assert "collapsed" in LabelProbabilities(truth, np.tile(p[:1], (6, 1))).collapsed(NAMES)
    assert not LabelProbabilities(truth, p).collapsed(NAMES)


def test_figures_are_drawn_for_every_label():
    ((name, png),) = LabelProbabilities(*drawn()).figures("title", NAMES)
    assert name == "roc.png"
    assert png.startswith(b"\x89PNG")


def test_prevalence_is_chance():
    truth, _ = drawn()
    scores = baselines.prevalence(truth, truth, NAMES)
    shares = [(truth[known(truth, k), k] == 1).mean() for k in range(3)]
    assert scores["macro_auroc"] == 0.5
    assert scores["macro_ap"] == pytest.approx(np.mean(shares))


def test_platt_scaling_recovers_a_distortion():
    random = np.random.default_rng(0)
    logit = random.normal(size=4000)
    truth = (random.uniform(size=4000) < 1 / (1 + np.exp(-logit))).astype(float)[:, None]
    distorted = (1 / (1 + np.exp(-(3 * logit + 1))))[:, None]
    (one,) = calibration.fit(truth, distorted, ["a"])
    assert one.slope == pytest.approx(1 / 3, abs=0.03)
    assert one.offset == pytest.approx(-1 / 3, abs=0.1)
    assert plain(truth, calibration.apply(distorted, [one]))["ece"] < plain(truth, distorted)["ece"] / 2


def test_threshold_has_the_highest_f1():
    truth, p = drawn()
    fits = calibration.fit(truth, p, NAMES)
    calibrated = calibration.apply(p, fits)
    rows = calibration.by_label(truth, p, fits, NAMES)
    for k, name in enumerate(NAMES[:3]):
        t, q = truth[known(truth, k), k], calibrated[known(truth, k), k]
        best = max(f1_score(t, q >= cut) for cut in np.unique(q))
        assert rows[name]["f1"] == pytest.approx(best)
    assert calibration.macro_f1(rows) == pytest.approx(np.mean([rows[name]["f1"] for name in NAMES[:3]]))


def test_a_rare_or_reversed_label_is_left_as_it_is():
    truth, p = drawn()
    fits = calibration.fit(truth, np.stack([1 - p[:, 0], *p[:, 1:].T], axis=1), NAMES)
    assert (fits[0].slope, fits[0].offset) == (1.0, 0.0)
    assert "does not rank" in fits[0].note
    assert fits[3].threshold is None
    assert "2 present and 198 absent" in fits[3].note
