"""Further outputs of a model: case-wise measures and heads, with intervals over patients."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.report import retrain_report
from lungtune.stats import case_metrics
from lungtune.tasks.classification import metrics

CLASSES = ("normal", "bacterial")


@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_mean_is_that_of_the_cases_with_a_value(values):
    values = np.array(values)
    found = case_metrics.mean(values, np.arange(len(values)) // 2, draws=50)
    if np.isnan(values).all():
        assert math.isnan(found.value)
        assert found.to_dict()["value"] is None
        return
    assert found.value == pytest.approx(np.nanmean(values))
    if not math.isnan(found.low):
        assert np.nanmin(values) - 1e-9 <= found.low <= found.high <= np.nanmax(values) + 1e-9


def test_each_draw_is_a_mean_over_whole_patients():
    """Two patients, one of three cases: a draw is one patient's mean or that of all."""
    values = np.array([1, 1, 1, 0.0, np.nan])
    found = case_metrics.mean(values, ["a", "a", "a", "b", "c"], draws=400)
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)


def test_alike_cases_of_a_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 6)
    values = np.repeat(rng.random(40), 6)
    by_patient, by_case = case_metrics.mean(values, patients), case_metrics.mean(values, np.arange(240))
    assert by_patient.high - by_patient.low > 2 * (by_case.high - by_case.low)


def test_one_patient_with_a_value_has_no_interval():
    found = case_metrics.mean(np.array([0.5, 0.7, np.nan]), ["a", "a", "b"])
    assert found.value == pytest.approx(0.6)
    assert math.isnan(found.low)


def test_differences_are_paired_where_both_have_a_value():
    rng = np.random.default_rng(1)
    second = rng.random(100)
    first = second + 0.01
    first[:10], second[90:] = np.nan, np.nan
    found = case_metrics.difference(first, second, np.arange(100))
    assert (found.value, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.beyond_chance


@pytest.mark.parametrize(
    ("values", "patients", "message"),
    [
        (np.array([0.1, np.inf]), [1, 2], "finite or NaN, but got .* 1 inf"),
        (np.zeros((2, 2)), [1, 2], r"A measure must be \(N,\)"),
        (np.zeros(2), [1], "One patient per case must hold"),
    ],
)
def test_wrong_measures_are_named(values, patients, message):
    with pytest.raises(ValueError, match=message):
        case_metrics.mean(values, patients)


def prediction():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    dice = np.where(np.arange(60) < 40, rng.random(60), np.nan)
    return labels, {
        "probabilities": 0.8 * np.eye(2)[labels] + 0.1,
        "dice": dice,
        "none": np.full(60, np.nan),
        "transformer|": rng.dirichlet(np.ones(2), 60),
    }


@pytest.mark.filterwarnings("error")
def test_a_section_holds_measures_and_heads():
    labels, found = prediction()
    part = retrain_report.section(labels, found["probabilities"], np.arange(60), CLASSES, labels, found)
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert part["measures"]["dice"]["value"] == pytest.approx(np.nanmean(found["dice"]))
    assert part["measures"]["dice"]["cases"] == 40
    assert part["measures"]["none"]["value"] is None
    assert set(part["heads"]) == {"transformer|"}
    expected = metrics.classification(labels, found["transformer|"], CLASSES)
    head = part["heads"]["transformer|"]
    assert {name: each["value"] for name, each in head.items()} == pytest.approx(
        {n: expected[n] for n in metrics.METRICS}
    )
    words = retrain_report.section_markdown("Test", part, CLASSES)
    assert f"| dice | 40 | {part['measures']['dice']['value']:.3f} (" in words
    assert "| none | 0 | - |" in words
    assert "| transformer/ | " in words


def test_without_further_outputs_nothing_is_said_of_them():
    labels, found = prediction()
    part = retrain_report.section(labels, found["probabilities"], np.arange(60), CLASSES, labels)
    assert (part["measures"], part["heads"]) == ({}, {})
    assert "| measure |" not in retrain_report.section_markdown("Test", part, CLASSES)


def test_an_output_of_another_shape_is_named():
    labels, _ = prediction()
    with pytest.raises(
        ValueError, match=r"'mask' must hold a measure \(60,\) or probabilities \(60, 2\), but is \(60, 3\)"
    ):
        case_metrics.judge({"mask": np.zeros((60, 3))}, labels, np.arange(60), CLASSES)
