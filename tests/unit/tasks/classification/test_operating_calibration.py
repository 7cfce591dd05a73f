"""Thresholds and temperature: fitted on validation, unchanged on test."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.tasks.classification import calibration, evaluation, operating
from lungtune.tasks.classification.report_markdown import section_markdown

CLASSES = ("bacterial", "Normal", "viral")


def predictions(cases=300, signal=1.5, seed=0, sure=1.0):
    """Calibrated where ``sure`` is 1: the labels are drawn from the probabilities before they are sharpened."""
    rng = np.random.default_rng(seed)
    logits = signal * rng.normal(size=(cases, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in true])
    predicted = np.exp(sure * logits)
    return labels, predicted / predicted.sum(axis=1, keepdims=True)


@given(seed=st.integers(0, 10**6), wanted=st.sampled_from([0.5, 0.8, 0.95, 0.99]), digits=st.sampled_from([1, 8]))
@settings(max_examples=40, deadline=None)
def test_a_threshold_is_the_highest_that_finds_enough(seed, wanted, digits):
    labels, probabilities = predictions(60, seed=seed)
    probabilities = np.round(probabilities, digits) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    points = operating.fit(labels, probabilities, CLASSES, wanted)
    assert [point.target for point in points] == [*CLASSES, "abnormal"]
    for k, point in enumerate(points[:3]):
        own = probabilities[labels == k, k]
        assert (own >= point.threshold).mean() >= wanted - 1e-9
        assert (own > point.threshold).mean() < wanted


def test_sensitivity_and_specificity_are_those_at_the_threshold():
    labels, probabilities = predictions()
    patients = np.arange(300) // 2
    points = operating.fit(labels, probabilities, CLASSES)
    row = operating.evaluate(points, labels, probabilities, patients, CLASSES)[3]
    called = 1 - probabilities[:, 1] >= points[3].threshold
    assert row["target"] == "abnormal"
    assert row["sensitivity"]["value"] == pytest.approx(called[labels != 1].mean())
    assert row["specificity"]["value"] == pytest.approx((~called)[labels == 1].mean())
    assert row["specificity"]["low"] < row["specificity"]["value"] < row["specificity"]["high"]
    assert (row["cases"], row["others"]) == ((labels != 1).sum(), (labels == 1).sum())


def sections(test_labels):
    labels, probabilities = predictions(seed=1)
    other = predictions(seed=2)[1]
    fitted = evaluation.fit(labels, probabilities, CLASSES)
    given = {"patients": np.arange(300), "classes": CLASSES, "train_labels": labels, "fitted": fitted}
    first = evaluation.section(labels, probabilities, fitted_here=True, **given)
    return first, evaluation.section(test_labels, other, **given)


def test_the_test_labels_move_neither_threshold_nor_temperature():
    labels = predictions(seed=2)[0]
    result = [sections(given) for given in (labels, np.roll(labels, 1), np.zeros(300, int))]
    for _, test in result:
        assert [row["threshold"] for row in test["operating"]] == [
            row["threshold"] for row in result[0][0]["operating"]
        ]
        assert test["calibration"]["temperature"] == result[0][0]["calibration"]["temperature"]
    assert result[0][1]["operating"][0]["sensitivity"] != result[1][1]["operating"][0]["sensitivity"]


def test_report_states_the_origin_of_thresholds():
    validation, test = sections(predictions(seed=2)[0])
    assert json.loads(json.dumps(test)) == test
    words = section_markdown("Validation", validation, CLASSES)
    assert "Thresholds set on validation for a sensitivity of 0.95, on these very cases." in words
    assert "fitted on 300 validation cases (the same cases, so the scores after it are optimistic)." in words
    words = section_markdown("Test", test, CLASSES)
    assert "Thresholds set on validation for a sensitivity of 0.95, left as they are here." in words
    assert "fitted on 300 validation cases." in words
    assert "| abnormal | 0." in words
    assert "Not to be relied on" not in words


def test_notes_stand_with_validation_only():
    labels, probabilities = predictions(12)
    fitted = evaluation.fit(labels, probabilities, CLASSES)
    given = (labels, probabilities, np.arange(12), CLASSES, labels, {}, {}, fitted)
    words = [section_markdown("Part", evaluation.section(*given, fitted_here=here), CLASSES) for here in (True, False)]
    assert "too few to set a sensitivity of 0.95" in words[0]
    assert "too few" not in words[1]
    assert "for reasons given under Validation: the thresholds of bacterial, Normal, viral, abnormal." in words[1]


def test_too_few_cases_give_a_note():
    labels = np.repeat([0, 1], [12, 50])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 62)
    few, enough, none, _ = operating.fit(labels, probabilities, CLASSES)
    assert few.note.startswith("Validation has 12 of 'bacterial', too few to set a sensitivity of 0.95")
    assert "At least 20 are needed." in few.note
    assert few.threshold == probabilities[:12, 0].min()
    assert enough.note == ""
    assert none.threshold is None
    assert none.note == "No threshold can be set: validation holds no case of 'viral'."
    row = operating.evaluate([none], labels, probabilities, np.arange(62), CLASSES)[0]
    assert row["sensitivity"] is None
    only = operating.fit(np.zeros(5, int), probabilities[:5], CLASSES)[0]
    assert only.note == "No threshold can be set: validation holds nothing but 'bacterial'."


def test_blind_model_flags_every_case_and_is_noted():
    labels = np.arange(100) % 2
    point = operating.fit(labels, np.full((100, 2), 0.5), ("a", "b"))[0]
    assert "Every validation case is called" in point.note


def test_twenty_cases_are_enough_for_ninety_five_percent():
    labels = np.repeat([0, 1], 20)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(2), 40)
    point = operating.fit(labels, probabilities, ("a", "b"))[0]
    assert point.note == ""
    assert (probabilities[:20, 0] >= point.threshold).sum() == 19


@pytest.mark.parametrize("wanted", [0, 1, 1.5, float("nan")])
def test_sensitivity_out_of_range_is_refused(wanted):
    with pytest.raises(ValueError, match="0 < wanted sensitivity < 1 must hold"):
        operating.fit(*predictions(), CLASSES, wanted)


@pytest.mark.parametrize("sure", [0.5, 1, 3])
def test_temperature_corrects_overconfidence(sure):
    labels, probabilities = predictions(4000, sure=sure)
    assert calibration.fit(labels, probabilities).value == pytest.approx(sure, rel=0.08)


@given(seed=st.integers(0, 10**6), sure=st.floats(0.3, 5), cases=st.integers(1, 60))
@settings(max_examples=40, deadline=None)
def test_no_other_temperature_has_a_lower_nll(seed, sure, cases):
    labels, probabilities = predictions(cases, seed=seed, sure=sure)
    fitted = calibration.fit(labels, probabilities)

    def loss(temperature):
        scaled = calibration.apply(probabilities, temperature)
        return -np.log(np.maximum(scaled[np.arange(cases), labels], 1e-300)).mean()

    assert loss(fitted.value) <= loss(1.0) + 1e-9
    if not fitted.note:
        assert loss(fitted.value) <= min(loss(t) for t in np.geomspace(0.06, 19, 50)) + 1e-6
    scaled = calibration.apply(probabilities, fitted.value)
    assert scaled.sum(axis=1) == pytest.approx(1)
    assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "probabilities", "value", "note"),
    [
        ([0, 1], np.eye(2), 1.0, "does not determine a temperature"),
        ([0, 1], [[0.6, 0.4], [0.4, 0.6]], 1.0, "does not determine a temperature"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], 1.0, "does not determine a temperature"),
        ([0, 0, 1], [[2 / 3, 1 / 3]] * 3, 1.0, ""),  # as sure as right
        ([0], [[0.9, 0.1]], 1.0, "does not determine a temperature"),
        ([1, 0], [[0.9, 0.1], [0.1, 0.9]], 20.0, "are nearly uninformative"),
        ([1, 0], np.eye(2), 20.0, "are nearly uninformative"),
    ],
)
def test_uncalibratable_model_is_unchanged_with_a_note(labels, probabilities, value, note):
    fitted = calibration.fit(np.array(labels), np.array(probabilities))
    assert fitted.value == pytest.approx(value, rel=1e-3)
    assert note in fitted.note
    assert bool(note) == bool(fitted.note)


def test_exported_file_documents_the_temperature():
    labels, probabilities = predictions(sure=2)
    content = calibration.fit(labels, probabilities).to_dict()
    assert content.keys() == {"temperature", "how", "fitted_on", "cases", "note"}
    by_hand = np.exp(np.log(probabilities) / content["temperature"])
    by_hand /= by_hand.sum(axis=1, keepdims=True)
    assert by_hand == pytest.approx(calibration.apply(probabilities, content["temperature"]))
