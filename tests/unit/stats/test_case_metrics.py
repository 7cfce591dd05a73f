"""Case-wise metrics with intervals over patients."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.stats import bootstrap, case_metrics
from lungtune.stats.case_metrics import CaseMeasures

CLASSES = ("normal", "bacterial")


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_mean_is_that_of_the_cases_with_a_value(values):
    values = np.array(values)
    interval = case_metrics.mean(values, np.arange(len(values)) // 2, draws=50)
    if np.isnan(values).all():
        assert math.isnan(interval.value)
        assert interval.to_dict()["value"] is None
        return
    assert interval.value == pytest.approx(np.nanmean(values))
    if not math.isnan(interval.low):
        assert np.nanmin(values) - 1e-9 <= interval.low <= interval.high <= np.nanmax(values) + 1e-9


def test_each_draw_is_a_mean_over_whole_patients():
    """Two patients, one of three cases: a draw is one patient's mean or that of all."""
    values = np.array([1, 1, 1, 0.0, np.nan])
    interval = case_metrics.mean(values, ["a", "a", "a", "b", "c"], draws=400)
    assert (interval.value, interval.low, interval.high) == (0.75, 0.0, 1.0)


def test_alike_cases_of_a_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 6)
    values = np.repeat(rng.random(40), 6)
    by_patient, by_case = case_metrics.mean(values, patients), case_metrics.mean(values, np.arange(240))
    assert by_patient.high - by_patient.low > 2 * (by_case.high - by_case.low)


def test_one_patient_with_a_value_has_no_interval():
    interval = case_metrics.mean(np.array([0.5, 0.7, np.nan]), ["a", "a", "b"])
    assert interval.value == pytest.approx(0.6)
    assert math.isnan(interval.low)


def test_differences_are_paired_where_both_have_a_value():
    rng = np.random.default_rng(1)
    second = rng.random(100)
    first = second + 0.01
    first[:10], second[90:] = np.nan, np.nan
    interval = case_metrics.difference(first, second, np.arange(100))
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.01, 0.01, 0.01))
    assert interval.beyond_chance


@pytest.mark.parametrize(
    ("values", "patients", "message"),
    [
        (np.array([0.1, np.inf]), [1, 2], "finite or NaN, but got .* 1 inf"),
        (np.zeros((2, 2)), [1, 2], r"A measure must be \(N,\)"),
        (np.zeros(2), [1], "One patient per case must hold"),
    ],
)
def test_wrong_measures_are_reported(values, patients, message):
    with pytest.raises(ValueError, match=message):
        case_metrics.mean(values, patients)


def measures():
    return CaseMeasures({"dice": np.array([0.5, np.nan, 0.9, 0.1]), "iou": np.array([0.4, np.nan, 0.8, 0.0])})


def test_measures_survive_tensors_and_table():
    built = measures()
    assert len(built) == 4
    tensors, table = built.tensors(), built.table()
    assert table.dtype == np.float32
    assert table.shape == (4, 2)
    for again in (CaseMeasures(tensors), built.with_table(table)):
        np.testing.assert_allclose(again.values["iou"], built.values["iou"], rtol=1e-6)
    assert built.collapsed(CLASSES) == ""
    assert list(built.figures("", CLASSES)) == []


def test_scorer_means_are_over_the_cases_with_a_value():
    scorer = measures().scorer(np.array([0, 0, 1, 2]))
    weights = np.array([[1, 1, 1], [2, 0, 1], [0, 0, 0]])
    assert scorer.score("dice", weights)[:2] == pytest.approx([0.5, (2 * 0.5 + 0.1) / 3])
    assert np.isnan(scorer.score("dice", weights)[2])
    assert scorer.outside("dice", weights)[1] == pytest.approx(0.9)
    assert scorer.cases("dice").tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"'dise' is not a metric\. Did you mean 'dice'"):
        scorer.score("dise", weights)


def test_a_measure_of_another_shape_is_reported():
    with pytest.raises(ValueError, match=r"'dice' must be \(4,\), finite or NaN, but got \(3,\)"):
        CaseMeasures({"dice": np.zeros(3)}).scorer(np.arange(4))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("values", "value"), [([np.nan] * 3, math.nan), ([0.5, 0.7, np.nan], 0.6)])
def test_no_interval_without_two_patients_that_have_a_value(values, value):
    scorer = CaseMeasures({"dice": np.array(values)}).scorer(np.array([0, 0, 1]))
    interval = bootstrap.scored(scorer, "dice")
    assert interval.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(interval.low)
    assert interval.to_dict()["low"] is None


def test_differences_of_scorers_are_paired():
    rng = np.random.default_rng(1)
    second = rng.random(100)
    one, two = (CaseMeasures({"dice": each}).scorer(np.arange(100)) for each in (second + 0.01, second))
    interval = bootstrap.between(one, two, "dice")
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.01, 0.01, 0.01))


def test_seed_mean_is_the_mean_of_the_scores():
    scorers = [CaseMeasures({"dice": each}).scorer(np.arange(3)) for each in (np.zeros(3), np.array([1, 1, np.nan]))]
    result = bootstrap.SeedMean(scorers)
    assert result.score("dice", np.ones((1, 3), int))[0] == 0.5
    assert result.cases("dice").tolist() == [1, 1, 0]
