"""Verdict on synthetic images: positive only against both controls; the report names the failed one."""

import re

import numpy as np
import pytest

from lungtune.core.comparison import Comparison
from lungtune.core.trial import Objective
from lungtune.report import ablation_report
from lungtune.stats import ablation
from lungtune.tasks.classification.predictions import Probabilities

LABELS = np.arange(240) % 3
PATIENTS = np.arange(240) // 2
OBJECTIVE = Objective("macro_f1")
COMPARED = Comparison("synthetic_images", ("none", "duplicates", "generated"), "none", "generated")


def model(right, seed):
    """Probabilities of a model that is right in a share of the cases."""
    random = np.random.default_rng(seed)
    predicted = np.where(random.random(len(LABELS)) < right, LABELS, (LABELS + random.integers(1, 3, len(LABELS))) % 3)
    return Probabilities(LABELS, 0.1 + 0.7 * np.eye(3)[predicted])


def compared(shares, axis=COMPARED, patients=PATIENTS):
    predictions = {
        value: {seed: model(right, 10 * k + seed) for seed in (1, 2)} for k, (value, right) in enumerate(shares.items())
    }
    validation = ablation_report.part(patients, axis, predictions, OBJECTIVE)
    about = {"axis": axis.axis, "control": axis.control, "recipe_value": axis.own, "metric": OBJECTIVE.metric}
    content = {**about, "validation": validation, "test": None, "confirmed": "", "notes": []}
    words = ablation_report.markdown(content)
    lines = "\n".join(ablation_report.text(content))
    return validation, words, lines


@pytest.mark.parametrize(
    ("shares", "helped", "said"),
    [
        (
            (0.5, 0.55, 0.9),
            True,
            r"images helped: better than training without them \(gain .* and better than dupl",
        ),
        (
            (0.5, 0.9, 0.9),
            False,
            r"not help here: no better than duplicating real images \(.*though better than train",
        ),
        (
            (0.9, 0.5, 0.9),
            False,
            r"not help here: no better than training without them \(.*though better than dupl",
        ),
        ((0.7, 0.7, 0.7), False, r"did not help here: no better than training without them .* and no better than dupl"),
        ((0.9, 0.9, 0.5), False, r"did not help here: no better than training without them .* and no better than dupl"),
    ],
)
def test_both_controls_must_be_beaten_beyond_chance(shares, helped, said):
    validation, words, lines = compared(dict(zip(COMPARED.values, shares, strict=True)))
    verdict = validation["synthetic"]
    assert verdict["helped"] is helped
    assert re.search(said, verdict["sentence"])
    assert "95 % over patients, jointly for both comparisons" in verdict["sentence"]
    assert f"## Synthetic images\n\nOn validation, {verdict['sentence']}" in words
    assert f"On validation, {verdict['sentence']}" in lines
    assert ("synthetic images did not help here" in words) is not helped
    joint = [each["low"] > 0 for each in verdict["gains"].values()]
    assert all(joint) is helped


def test_intervals_are_joint_over_the_two_comparisons():
    validation, _, _ = compared(dict(zip(COMPARED.values, (0.6, 0.7, 0.8), strict=True)))
    tables = [[model(right, 10 * k + seed) for seed in (1, 2)] for k, right in enumerate((0.6, 0.7, 0.8))]
    for name, control in zip(("none", "duplicates"), tables[:2], strict=True):
        expected = ablation.gain(PATIENTS, control, tables[2], "macro_f1", level=0.975)
        assert validation["synthetic"]["gains"][name] == expected.to_dict()


def test_missing_control_allows_only_a_negative_verdict():
    axis = Comparison("synthetic_images", ("none", "generated"), "none", "generated")
    validation, words, _ = compared({"none": 0.5, "generated": 0.9}, axis)
    assert validation["synthetic"]["helped"] is None
    assert "helped can't be decided: duplicates must be compared too, but they were not requested" in words
    validation, words, _ = compared({"none": 0.9, "generated": 0.9}, axis)
    assert validation["synthetic"]["helped"] is False
    assert "synthetic images did not help here: no better than training without them" in words
    validation, words, _ = compared({"none": 0.5, "duplicates": 0.6})  # the third was asked for, and failed
    assert validation["synthetic"]["helped"] is None
    assert "generated must be compared too, but their training did not end" in words


def test_one_patient_is_no_evidence():
    validation, _, _ = compared(dict(zip(COMPARED.values, (0.3, 0.3, 0.9), strict=True)), patients=np.zeros(240, int))
    assert validation["synthetic"]["helped"] is False


def test_other_axes_have_no_verdict_on_synthetic_images():
    axis = Comparison("lambda2", (0.0, 1.0), 0.0, 1.0)
    validation, words, lines = compared({0.0: 0.5, 1.0: 0.9}, axis)
    assert validation["synthetic"] is None
    assert "ynthetic" not in words + lines
