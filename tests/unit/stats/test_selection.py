"""Score of the best of many, corrected for selection."""

import time

import numpy as np
import pytest

from lungtune.stats import selection
from lungtune.stats.case_metrics import CaseMeasures
from lungtune.tasks.classification.predictions import Probabilities, interval


def corrected(labels, tables, patients, metric="macro_f1", mode="max", **how):
    return selection.expected([Probabilities(labels, table) for table in tables], patients, metric, mode, **how)


def noisy_trials(trials, patients=200, seed=0):
    """Equally good predictors: each is right with probability 0.6, independently."""
    rng = np.random.default_rng(seed)
    labels = np.arange(patients) % 3
    tables = []
    for _ in range(trials):
        wrong = (labels + rng.integers(1, 3, patients)) % 3
        predicted = np.where(rng.random(patients) < 0.6, labels, wrong)
        tables.append(0.7 * np.eye(3)[predicted] + 0.1)
    return labels, tables, np.arange(patients)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_best_of_sixty_equals_is_optimistic_corrected_is_not(metric):
    """True score 0.6; one trial's standard deviation is 0.035, so the best of sixty shows about 0.68."""
    naive, honest = [], []
    for seed in range(5):
        labels, tables, patients = noisy_trials(60, seed=seed)
        naive.append(max(interval(labels, table, patients, metric, draws=2).value for table in tables))
        honest.append(corrected(labels, tables, patients, metric, draws=200, seed=seed).value)
    assert np.mean(naive) > 0.66
    assert np.mean(honest) == pytest.approx(0.6, abs=0.025)


def test_a_single_trial_needs_no_correction():
    labels, tables, patients = noisy_trials(1)
    result, plain = corrected(labels, tables, patients, "accuracy"), interval(labels, tables[0], patients, "accuracy")
    assert result.value == pytest.approx(plain.value, abs=0.01)


def test_a_clear_winner_keeps_its_score():
    labels, tables, patients = noisy_trials(20)
    tables.append(0.7 * np.eye(3)[np.where(np.arange(200) < 180, labels, (labels + 1) % 3)] + 0.1)
    assert corrected(labels, tables, patients, "accuracy").value == pytest.approx(0.9, abs=0.01)


def test_losses_are_minimised():
    labels, tables, patients = noisy_trials(10)
    tables.append(0.7 * np.eye(3)[labels] + 0.1)
    assert corrected(labels, tables, patients, "nll", "min").value == pytest.approx(-np.log(0.8))
    assert corrected(labels, tables, patients, "nll", mode="max").value > 0.9


def test_a_draw_that_cannot_be_scored_does_not_decide():
    """A recall is unknown where no case of the class is drawn."""
    labels, tables, patients = noisy_trials(5, patients=12)
    labels = np.where(np.arange(12) < 2, 2, labels % 2)
    interval = corrected(labels, tables, patients, "recall_2")
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_nine_reports_of_twenty_four_trials_are_quick():
    rng = np.random.default_rng(0)
    labels, tables = np.arange(1000) % 3, rng.dirichlet(np.ones(3), (24 * 9, 1000)).astype(np.float32)
    for metric in ("macro_f1", "mcc"):
        start = time.process_time()
        corrected(labels, tables, np.arange(1000), metric)
        assert time.process_time() - start < 3


def test_wrong_input_is_reported():
    labels, tables, patients = noisy_trials(2)
    with pytest.raises(ValueError, match="At least one candidate"):
        corrected(labels, [], patients)
    with pytest.raises(ValueError, match="At least two patients"):
        corrected(labels, tables, ["p"] * len(labels))


def test_best_of_many_segmenters_is_corrected():
    """Twenty with a true Dice of 0.7; cases without a mask have none."""
    rng, patients = np.random.default_rng(0), np.arange(120) // 2
    built = [rng.normal(0.7, 0.2, 120) for _ in range(20)]
    for each in built:
        each[::7] = np.nan
    candidates = [CaseMeasures({"dice": each}) for each in built]
    naive = max(np.nanmean(each) for each in built)
    interval = selection.expected(candidates, patients, "dice", draws=300)
    assert naive > 0.725
    assert interval.value == pytest.approx(0.7, abs=0.02)
    worst = selection.expected(candidates, patients, "dice", "min", draws=300)
    assert worst.value < interval.value + 0.02
