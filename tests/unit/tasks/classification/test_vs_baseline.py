"""Comparison of a model with baselines on the same cases."""

import json

import numpy as np
import pytest

from lungtune.stats import controls
from lungtune.tasks.classification import baselines, evaluation, metrics, report_markdown

CLASSES = ("normal", "bacterial", "viral")


def files(labels, telling, seed=0):
    """File properties; if ``telling``, bacterial ones are wide PNGs and viral ones RGB."""
    rng = np.random.default_rng(seed)
    shown = labels if telling else rng.integers(0, 3, len(labels))
    return {
        "width": np.where(shown == 1, 1200, 900) + rng.integers(0, 50, len(labels)),
        "height": rng.integers(700, 800, len(labels)),
        "type": np.where(shown == 1, "PNG", "JPEG").astype(object),
        "mode": np.where(shown == 2, "RGB", "L").astype(object),
    }


@pytest.mark.parametrize("telling", [True, False])
def test_metadata_forest_scores_by_real_dependence_only(telling):
    train, labels = np.arange(300) % 3, np.arange(120) % 3
    scores = baselines.metadata(files(train, telling), train, files(labels, telling, 1), CLASSES)
    assert scores.sum(axis=1) == pytest.approx(1)
    score = metrics.classification(labels, scores, CLASSES)["balanced_accuracy"]
    assert score > 0.95 if telling else score < 0.5


def test_equal_files_predict_the_class_shares():
    train = np.repeat([0, 1, 2], [10, 20, 30])
    alike = {"width": np.full(60, 64), "mode": np.full(60, "L")}
    scores = baselines.metadata(alike, train, {"width": np.full(5, 99), "mode": np.full(5, "RGB")}, CLASSES)
    assert (scores == baselines.prior(train, 3, 5)).all()


def test_unseen_class_and_unseen_word_are_scored():
    train = np.arange(60) % 2
    seen = {"mode": np.where(train, "L", "RGB")}
    scores = baselines.metadata(seen, train, {"mode": np.array(["CMYK", "L"])}, CLASSES)
    assert scores.shape == (2, 3)
    assert (scores[:, 2] == 0).all()
    assert scores[1, 1] > 0.9


def compared(right=True, rows=None):
    labels = np.arange(120) % 3
    model = 0.8 * np.eye(3)[labels if right else np.zeros(120, int)] + 0.2 / 3
    blind = np.random.default_rng(0).dirichlet(np.ones(3), 120)
    return labels, model, baselines.vs_baseline(labels, model, blind, np.arange(120), CLASSES, "A guess", rows)


def test_the_comparison_is_paired_on_the_same_cases():
    rows = np.arange(120) < 90
    labels, _, result = compared(rows=rows)
    assert (result["cases"], result["left_out"]) == (90, 30)
    assert result["gain"]["value"] == pytest.approx(result["model"]["value"] - result["baseline"]["value"])
    assert result["gain"]["low"] > 0
    assert result["sentence"].startswith("A guess scores 0.")
    assert result["sentence"].endswith("30 cases are left out of this.")
    assert "does not show" not in result["sentence"]
    assert len(labels) == 120


def test_chance_level_model_gives_a_sentence():
    assert "so the score does not show that the model reads the lungs." in compared(right=False)[2]["sentence"]


def test_no_case_to_score_on_is_no_comparison():
    result = compared(rows=np.zeros(120, bool))[2]
    assert result == {"computed": False, "sentence": "A guess was not scored: none of these cases can be."}


def test_report_shows_baselines_and_reason_for_missing_one():
    labels, model, result = compared()
    given = {"metadata": result, "lungs blacked out": controls.missing("Not computed: name them with masks=DIR.")}
    part = evaluation.section(labels, model, np.arange(120), CLASSES, labels, vs_baseline=given)
    assert json.loads(json.dumps(part)) == part
    words = report_markdown.section_markdown("Test", part, CLASSES)
    assert f"| metadata | 120 | {result['baseline']['value']:.3f} (" in words
    assert "Lungs blacked out: Not computed: name them with masks=DIR." in words
    assert "| lungs blacked out |" not in words
