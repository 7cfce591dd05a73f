"""Controls without lungs of models with several labels a case."""

from __future__ import annotations

import numpy as np
import pytest

from lungtune.core.fields import UNCERTAIN
from lungtune.data import dataset
from lungtune.data.dataset import Part
from lungtune.report.retrain_report import controls_markdown
from lungtune.retraining import controls
from lungtune.tasks.multilabel import baselines

NAMES = ("effusion", "nodule", "mass")


def truths(cases: int = 120, seed: int = 0) -> np.ndarray:
    """Labels of which the last is never present."""
    labels = (np.random.default_rng(seed).random((cases, 3)) < 0.4).astype(float)
    labels[:, 2] = 0
    labels[::7, 0] = UNCERTAIN
    labels[::11, 1] = np.nan
    return labels


def files(labels: np.ndarray) -> dict[str, np.ndarray]:
    """File properties whose width tells the first label."""
    width = np.where(labels[:, 0] == 1, 1200, 900)
    return {"width": width, "height": np.full(len(labels), 800), "type": np.full(len(labels), "PNG").astype(object)}


def test_file_properties_predict_the_label_they_tell():
    train, labels = truths(), truths(seed=1)
    scores = baselines.metadata(files(train), train, files(labels))
    known = labels[:, 0] < 2
    assert scores[known & (labels[:, 0] == 1), 0].min() > 0.9 > 0.1 > scores[labels[:, 0] == 0, 0].max()
    assert np.ptp(scores[:, 2]) == 0 < scores[0, 2] < 0.02  # never present: its prevalence


def test_alike_files_give_the_prevalence():
    train = truths()
    columns = {"width": np.full(120, 9), "type": np.full(120, "PNG")}
    scores = baselines.metadata(columns, train, {"width": np.array([8, 9]), "type": np.array(["A", "PNG"])})
    assert np.allclose(scores, baselines.prevalence_of(train))


def compared(rows=None, train=None):
    labels = truths()
    rng = np.random.default_rng(3)
    model = np.clip(np.where(labels == 1, 0.7, 0.3) + rng.normal(0, 0.1, labels.shape), 0, 1)
    blind = rng.random(labels.shape)
    train = truths(seed=5) if train is None else train
    return baselines.versus(labels, model, blind, np.arange(len(labels)) // 2, train, NAMES, "A guess", rows)


def test_comparison_is_over_labels_the_control_learnt():
    result = compared()
    assert result["gain"]["low"] > 0
    assert result["model"]["value"] - result["baseline"]["value"] == pytest.approx(result["gain"]["value"])
    assert (result["cases"], result["left_out"]) == (120, 0)
    assert result["sentence"].startswith("A guess scores 0.")
    assert result["sentence"].endswith("Both are means over 2 of 3 labels.")
    one = truths(seed=5)
    one[:, 0] = 1
    assert compared(train=one)["sentence"].endswith("Both are means over 1 of 3 labels.")


def test_comparison_leaves_cases_without_mask_out():
    result = compared(rows=np.arange(120) % 3 > 0)
    assert (result["cases"], result["left_out"]) == (80, 40)
    assert "40 cases are left out of this." in result["sentence"]
    (head, _, row, _, sentence) = controls_markdown({"lungs blacked out": result}, "macro-AUROC")[1:]
    assert "its macro-AUROC" in head
    assert row.startswith("| lungs blacked out | 80 | 0.")
    assert sentence.startswith("Lungs blacked out: A guess")


def test_control_that_learnt_no_label_is_not_scored():
    result = compared(train=np.zeros((40, 3)))
    assert result == {
        "computed": False,
        "sentence": "A guess was not scored: no label is both present and absent in its cases.",
    }


@pytest.mark.parametrize(
    ("present", "sentence"),
    [((0, 1), ""), ((0, 0), "no label is present in one and absent in another training image with a lung mask.")],
)
def test_black_lungs_need_a_label_with_both_answers(present, sentence):
    labels = np.zeros((4, 2))
    labels[:2, 0] = present
    labels[2:, 1] = 1  # without a mask
    has = np.array([True, True, False, False])
    image = np.full((4, 1, 8, 8), 9, np.uint8)
    part = Part.of(image=image, labels=labels, mask=image, known={"mask": has})
    data = dataset.Dataset(NAMES[:2], part, part, None, None, None, "")
    assert sentence in controls.obstacle(data)
    assert bool(controls.obstacle(data)) == bool(sentence)
