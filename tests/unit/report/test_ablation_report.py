"""Ablation report: patients and seeds, notes, confirmation on test."""

import numpy as np
import pytest

from lungtune.core.comparison import Comparison
from lungtune.core.trial import Objective
from lungtune.report import ablation_report
from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import Probabilities

LABELS, PATIENTS = np.arange(60) % 3, np.arange(60)
COMPARED = Comparison("lambda2", (0.0, 1.0), 0.0, 1.0)


def tables(*shares):
    """Predictions of seeds that are right for a share of the cases."""
    built = {}
    for seed, share in enumerate(shares):
        right = np.random.default_rng(seed).random(60) < share
        built[seed] = Probabilities(LABELS, np.eye(3)[np.where(right, LABELS, (LABELS + 1) % 3)])
    return built


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.9, 0.9, 0.3), "2 of 3. The interval over patients shows a gain, but the seeds disagree"),
        ((0.9,) * 3, "3 of 3."),
    ],
)
def test_report_states_patients_and_seeds_separately(shares, said):
    """An interval over patients can leave out 0 though one of three trainings was worse."""
    predictions = {0.0: tables(0.4, 0.4, 0.4), 1.0: tables(*shares)}
    result = ablation_report.part(PATIENTS, COMPARED, predictions, Objective("macro_f1"))
    assert result["effect"]["helps"]
    assert said in result["sentence"]
    scores = [
        metrics.classification(LABELS, each.probabilities, "abc")["macro_f1"] for each in predictions[1.0].values()
    ]
    assert result["values"][1]["score"]["mean"] == pytest.approx(np.mean(scores))
    one = tables(0.5)[0]
    held = ablation_report.part(PATIENTS, COMPARED, {0.0: {0: one}, 1.0: {1: one}}, Objective("mcc"))
    assert held["problem"] == "Not computed: no seed's training ended with all values; give more --seeds."


def test_notes_omit_what_is_unknown():
    known = ablation_report.notes(COMPARED, 3, left_out=True, edited=False, failed=[])
    assert "its score with lambda2 1 was selected and is biased upwards, so it is left out" in known[0]
    assert "chosen on the validation cases with lambda2 1: that favours 1" in known[1]
    unknown = ablation_report.notes(COMPARED, 3, left_out=False, edited=True, failed=[(0.0, 4)])
    assert "Seed 3 is the searched one: its score was selected and is biased upwards; it counts in this." in unknown[0]
    assert "which value its other parameters suit is not known" in unknown[1]
    assert unknown[2].startswith("Failed: lambda2 0 with seed 4.")


def test_nothing_to_confirm_without_a_better_value():
    worse, better = (
        ablation_report.part(PATIENTS, COMPARED, {0.0: tables(0.6), 1.0: tables(share)}, Objective("accuracy"))
        for share in (0.3, 0.9)
    )
    assert ablation_report.confirmed(COMPARED, worse, better).startswith("On validation no value was better than 0")
    assert ablation_report.confirmed(COMPARED, better, worse).startswith(
        "The value that was best on validation, 1, has"
    )
    assert ablation_report.confirmed(COMPARED, {"problem": "x"}, better) == ""
