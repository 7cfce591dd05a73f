"""Constant-class baselines."""

import numpy as np
import pytest

from lungtune.tasks.classification import METRICS, baselines

CLASSES = ("normal", "bacterial", "viral")


def test_the_constant_is_chosen_on_the_training_fold():
    train, evaluated = np.repeat([0, 1, 2], [5, 20, 10]), np.repeat([0, 1, 2], [234, 242, 148])
    scores = baselines.constant_class(train, evaluated, CLASSES)
    assert baselines.majority(train, CLASSES) == "bacterial"
    assert scores["accuracy"] == pytest.approx(242 / 624)  # 0.388, the official paediatric test set
    assert scores["recall_bacterial"] == 1.0
    assert scores["macro_auroc"] == 0.5
    assert set(scores) == {*METRICS, *(f"recall_{name}" for name in CLASSES)}


def test_a_class_missing_from_training_keeps_the_nll_finite():
    scores = baselines.constant_class(np.zeros(50, int), np.array([0, 1, 2]), CLASSES)
    assert scores["nll"] < np.log(60)


def test_every_constant_is_listed():
    table = baselines.every_constant(np.repeat([0, 1, 2], [234, 242, 148]), CLASSES)
    assert table["normal"]["accuracy"] == pytest.approx(0.375)
    assert [row["balanced_accuracy"] for row in table.values()] == pytest.approx([1 / 3] * 3)
