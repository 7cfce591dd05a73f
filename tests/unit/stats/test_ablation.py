"""Effect of a parameter per data part, for any task's objective."""

import json

import numpy as np
import pytest

from lungtune.core.comparison import Comparison
from lungtune.core.trial import Objective
from lungtune.report import ablation_report
from lungtune.stats import ablation
from lungtune.stats.case_metrics import CaseMeasures
from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import Probabilities

CLASSES = ("normal", "bacterial", "viral")
RECALLS = {name: f"recall_{k}" for k, name in enumerate(CLASSES)}
LABELS, PATIENTS = np.arange(240) % 3, np.arange(240) // 2
MACRO_F1, NLL = Objective("macro_f1"), Objective("nll", "min")
DICE = Objective("segmentation.dice", task="segmentation")


def model(right, seed=0, least=None):
    """A model that is right with probability ``right``; in class ``least`` with 0.2 only."""
    rng = np.random.default_rng(seed)
    chance = np.where(least == LABELS, 0.2, right)
    predicted = np.where(rng.random(240) < chance, LABELS, (LABELS + rng.integers(1, 3, 240)) % 3)
    return Probabilities(LABELS, 0.7 * np.eye(3)[predicted] + 0.1)


def test_helpful_axis_reports_gain_and_classes():
    treatments = {0.1: [model(0.8, 2, least=2)], 0.5: [model(0.8, 1)]}
    effect = ablation.effect(PATIENTS, [model(0.8, 1, least=2)], treatments, "lambda2", MACRO_F1, RECALLS)
    assert json.loads(json.dumps(effect)) == effect
    assert (effect["best"], effect["helps"], effect["harms"]) == (0.5, True, False)
    assert effect["classes"]["viral"]["low"] > 0
    assert effect["sentence"].startswith("lambda2 helps: its best value 0.5 scores 0.")
    assert "jointly for 2 values" in effect["sentence"]
    assert "More cases are detected of: viral." in effect["sentence"]
    assert "With one seed a side" in effect["sentence"]


def test_useless_or_harmful_axis_is_reported():
    none = ablation.effect(PATIENTS, [model(0.7, 1)], {1: [model(0.7, 2)]}, "lambda2", MACRO_F1, draws=300)
    assert "lambda2 makes no difference beyond chance: its value 1 scores" in none["sentence"]
    harm = ablation.effect(PATIENTS, [model(0.9, 1)], {1: [model(0.4, 2)]}, "lambda2", MACRO_F1, RECALLS, draws=300)
    assert harm["sentence"].startswith("lambda2 harms")
    assert "Fewer cases are detected of: normal" in harm["sentence"]


def test_seeds_are_averaged_by_score():
    control, treatment = [model(0.6, seed) for seed in (1, 2)], [model(0.8, seed) for seed in (3, 4, 5)]
    effect = ablation.effect(PATIENTS, control, {1: treatment}, "lambda2", NLL, draws=300)
    scores = [
        np.mean([metrics.classification(LABELS, t.probabilities, CLASSES)["nll"] for t in each])
        for each in (control, treatment)
    ]
    assert effect["control"] == {"score": pytest.approx(scores[0]), "seeds": 2}
    assert effect["arms"][0]["gain"]["value"] == pytest.approx(scores[0] - scores[1])  # positive is better
    assert effect["helps"]
    assert "means over 2 or more seeds" in effect["sentence"]


def test_a_gain_over_itself_is_nothing():
    result = ablation.gain(PATIENTS, [model(0.6)], [model(0.6), model(0.6)], "macro_f1", draws=50)
    assert (result.value, result.low, result.high) == (0, 0, 0)
    assert not result.beyond_chance


def test_an_axis_without_values_is_reported():
    with pytest.raises(ValueError, match="At least one value of lambda2 other than 0"):
        ablation.effect(PATIENTS, [model(0.6)], {}, "lambda2", MACRO_F1)


def segmenter(mean, seed):
    """Dice of each case; a third has no mask."""
    dice = np.clip(np.random.default_rng(seed).normal(mean, 0.1, 240), 0, 1)
    return CaseMeasures({"dice": np.where(LABELS == 2, np.nan, dice)})


def test_dice_objective_is_compared():
    control, better = [segmenter(0.6, 1), segmenter(0.6, 2)], [segmenter(0.8, 3), segmenter(0.8, 4)]
    effect = ablation.effect(PATIENTS, control, {0.5: better}, "decoder_width", DICE, against=1)
    assert json.loads(json.dumps(effect)) == effect
    assert (effect["metric"], effect["helps"]) == ("segmentation.dice", True)
    assert effect["arms"][0]["gain"]["value"] == pytest.approx(0.2, abs=0.03)
    assert "decoder_width helps: its value 0.5 scores 0.8" in effect["sentence"]
    worse = ablation.effect(PATIENTS, better, {1: control}, "decoder_width", DICE)
    assert worse["harms"]


def test_dice_comparison_also_reports_other_tasks():
    compared = Comparison("lambda2", (0.1, 1.0), 0.1, 1.0)
    arms = {0.1: {1: segmenter(0.6, 1), 2: segmenter(0.6, 2)}, 1.0: {1: segmenter(0.8, 3), 2: segmenter(0.8, 4)}}
    others = {value: {seed: model(0.7, seed) for seed in each} for value, each in arms.items()}
    measures = {"accuracy": ("accuracy", others)}
    result = ablation_report.part(PATIENTS, compared, arms, DICE, measures=measures)
    assert json.loads(json.dumps(result)) == result
    assert result["synthetic"] is None
    assert result["effect"]["classes"] == {}
    control, other = result["values"]
    assert (control["gain"], other["above"]) == (None, 2)
    expected = np.mean([(model(0.7, seed).probabilities.argmax(1) == LABELS).mean() for seed in (1, 2)])
    assert control["measures"]["accuracy"]["value"] == pytest.approx(expected)
    assert control["measures"]["accuracy"]["cases"] == 240
    about = {"axis": "lambda2", "control": 0.1, "recipe_value": 1.0, "metric": DICE.metric}
    words = ablation_report.markdown({**about, "validation": result, "test": None, "confirmed": "", "notes": []})
    assert "| lambda2 | segmentation.dice | gain over 0.1 | seeds above | accuracy |" in words


def test_unfinished_value_is_reported_as_a_problem():
    compared = Comparison("lambda2", (0.1, 1.0), 0.1, 1.0)
    result = ablation_report.part(PATIENTS, compared, {0.1: {}, 1.0: {1: segmenter(0.8, 3)}}, DICE)
    assert result["problem"].startswith("Not computed: trainings with lambda2 0.1 and with another value must end")
    result = ablation_report.part(PATIENTS, compared, {0.1: {2: segmenter(0.6, 1)}, 1.0: {1: segmenter(0.8, 3)}}, DICE)
    assert result["problem"].startswith("Not computed: no seed's training ended with all values")


def test_ranking_metric_is_compared():
    effect = ablation.effect(PATIENTS, [model(0.6, 1)], {1: [model(0.9, 2)]}, "lr", Objective("macro_auroc"), draws=200)
    assert (effect["helps"], effect["metric"]) == (True, "macro_auroc")
