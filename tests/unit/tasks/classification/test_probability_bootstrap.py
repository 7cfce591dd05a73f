"""Patient bootstrap of probabilities: point values, coverage, clusters, paired draws."""

import math
import time

import numpy as np
import pytest

from lungtune.errors import TrialError
from lungtune.stats import bootstrap
from lungtune.stats.bootstrap import Interval
from lungtune.tasks.classification import METRICS, metrics
from lungtune.tasks.classification.predictions import ProbabilityScorer, interval, intervals, paired

CLASSES = ("normal", "bacterial", "viral")


def simulate(patients=100, images=1, signal=1.0, seed=0, shared=0.0):
    """Cases of ``patients`` with ``images`` each; ``shared`` is the share of luck common to a patient's images."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 3, patients), images)
    luck = np.repeat(rng.normal(size=(patients, 3)), images, axis=0)
    logits = math.sqrt(shared) * luck + math.sqrt(1 - shared) * rng.normal(size=(patients * images, 3))
    logits[np.arange(len(labels)), labels] += signal
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True), np.repeat(np.arange(patients), images)


def test_point_values_equal_the_metrics_module():
    labels, probabilities, patients = simulate(images=2)
    scores = metrics.classification(labels, probabilities, CLASSES)
    result = intervals(labels, probabilities, patients, CLASSES, draws=50)
    assert {name: i.value for name, i in result.items()} == pytest.approx(scores)
    assert all(i.low <= i.high for i in result.values())


@pytest.mark.parametrize("name", [*METRICS, "recall_2"])
def test_each_draw_equals_scoring_the_drawn_cases_one_by_one(name):
    labels, probabilities, patients = simulate(patients=12, images=2, seed=3)
    probabilities = np.round(probabilities, 1) + 0.05  # ties, for the AUROC
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    weights = bootstrap.draw(12, 40, seed=1)
    scorer = ProbabilityScorer(labels, probabilities, patients)
    key = "recall_viral" if name == "recall_2" else name
    slow = scorer.score(lambda y, p: metrics.classification(y, p, CLASSES)[key], weights)
    fast = scorer.score(name, weights)
    if name == "recall_2":  # a draw without a case of the class says nothing of its recall
        assert (np.isnan(fast) == (weights @ np.bincount(patients, labels == 2) == 0)).all()
    assert np.nan_to_num(fast) == pytest.approx(slow)


@pytest.mark.filterwarnings("error")
def test_rare_class_has_a_point_interval_absent_class_has_none():
    labels = np.repeat([0, 1], [200, 2])
    result = intervals(labels, np.eye(3)[labels], np.arange(202), CLASSES)
    assert (result["recall_bacterial"].low, result["recall_bacterial"].high) == (1.0, 1.0)
    assert result["recall_viral"].to_dict() == {"value": 0.0, "low": None, "high": None, "level": 0.95}


def test_intervals_have_nominal_coverage():
    """200 simulated validation sets; the truth comes from 60,000 patients. Binomial sd of the coverage is 1.5 %."""
    truth = intervals(*simulate(60_000, seed=99), CLASSES, draws=2)["macro_f1"].value
    hits = 0
    for seed in range(200):
        result = interval(*simulate(150, seed=seed), draws=200, seed=seed)
        hits += result.low <= truth <= result.high
    assert 0.89 <= hits / 200 <= 0.99


def test_wider_than_a_case_bootstrap_when_patients_repeat():
    labels, probabilities, patients = simulate(60, images=8, shared=0.9)
    by_patient = interval(labels, probabilities, patients)
    by_case = interval(labels, probabilities, np.arange(len(labels)))
    assert by_patient.high - by_patient.low > 1.5 * (by_case.high - by_case.low)


def test_pairs_share_their_draws():
    labels, probabilities, patients = simulate(200)
    same = paired(labels, probabilities, probabilities.copy(), patients)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    nearly = probabilities.copy()
    nearly[:5] = np.eye(3)[labels[:5]]
    difference = paired(labels, nearly, probabilities, patients)
    alone = interval(labels, probabilities, patients)
    assert difference.value >= 0
    assert difference.high - difference.low < (alone.high - alone.low) / 2


def test_pairs_see_a_real_difference():
    labels, strong, patients = simulate(300, signal=2.5)
    _, weak, _ = simulate(300, signal=0.5)
    difference = paired(labels, strong, weak, patients, "nll")
    assert difference.high < 0  # a lower NLL is better


def test_same_seed_same_interval_and_more_level_is_wider():
    data = simulate()
    assert interval(*data, seed=4) == interval(*data, seed=4)
    narrow, wide = interval(*data, level=0.5), interval(*data, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_patients_may_be_any_ids():
    labels, probabilities, patients = simulate()
    named = [f"person{number}" for number in patients]
    assert interval(labels, probabilities, named).value == interval(labels, probabilities, patients).value


def test_one_patient_has_no_interval():
    labels, probabilities, _ = simulate()
    result = interval(labels, probabilities, ["p"] * len(labels))
    assert math.isnan(result.low)
    assert str(result).endswith("(no interval: a single patient or image)")
    assert result.to_dict()["high"] is None


def test_intervals_read_as_a_sentence():
    assert str(Interval(0.8, 0.75, 0.84)) == "0.800 (95 % interval 0.750 to 0.840)"


def test_a_thousand_draws_over_a_thousand_cases_are_quick():
    data = simulate(500, images=2)
    for name in ("macro_f1", "accuracy", "balanced_accuracy"):
        start = time.process_time()
        interval(*data, name)
        assert time.process_time() - start < 0.5


def test_wrong_input_is_reported():
    labels, probabilities, patients = simulate()
    with pytest.raises(ValueError, match=r"'macrof1' is not a metric\. Did you mean 'macro_f1'"):
        interval(labels, probabilities, patients, "macrof1")
    with pytest.raises(ValueError, match="One patient per case must hold"):
        interval(labels, probabilities, patients[:-1])
    probabilities[0, 0] = np.nan
    with pytest.raises(TrialError, match="not finite"):
        interval(labels, probabilities, patients)
