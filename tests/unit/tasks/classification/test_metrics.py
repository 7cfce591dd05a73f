"""Classification metrics: finite for any labels, equal to scikit-learn's, explicit about NaN and collapse."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtune.errors import TrialError
from lungtune.tasks.classification import METRICS, metrics

CLASSES = ("normal", "bacterial", "viral")


def predictions(cases=200, signal=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, cases)
    logits = rng.normal(size=(cases, 3))
    logits[np.arange(cases), labels] += signal
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_every_metric_and_recall_is_reported_finite():
    scores = metrics.classification(*predictions(), CLASSES)
    assert set(scores) == {*METRICS, *(f"recall_{name}" for name in CLASSES)}
    assert all(np.isfinite(value) for value in scores.values())


def test_perfect_predictions_get_the_best_value_of_each_metric():
    labels = np.array([0, 1, 2, 2])
    scores = metrics.classification(labels, np.eye(3)[labels], CLASSES)
    for name, metric in METRICS.items():
        assert scores[name] == pytest.approx(1.0 if metric.mode == "max" else 0.0), name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 2, 2], [1]])
def test_absent_classes_never_raise_nor_warn(labels):
    labels = np.array(labels)
    rng = np.random.default_rng(1)
    for probabilities in (rng.dirichlet(np.ones(3), len(labels)), np.tile([1.0, 0, 0], (len(labels), 1))):
        scores = metrics.classification(labels, probabilities, CLASSES)
        assert all(np.isfinite(value) for value in scores.values())


def test_class_neither_present_nor_predicted_is_left_out():
    labels = np.array([0, 1, 0, 1])
    scores = metrics.classification(labels, np.eye(3)[labels], CLASSES)
    assert (scores["macro_f1"], scores["balanced_accuracy"], scores["macro_auroc"]) == (1.0, 1.0, 1.0)
    assert scores["recall_viral"] == 0.0


def test_the_published_collapse_is_reproduced():
    """ "Everything is NORMAL" on 234 normal and 390 pneumonia images: accuracy 0.375, macro-F1 0.2727, recall 0.5."""
    labels = np.repeat([0, 1], [234, 390])
    scores = metrics.classification(labels, np.tile([0.5, 0.5], (624, 1)), ("NORMAL", "PNEUMONIA"))
    assert scores["accuracy"] == pytest.approx(0.3750, abs=5e-5)
    assert scores["macro_f1"] == pytest.approx(0.2727, abs=5e-5)
    assert scores["balanced_accuracy"] == 0.5
    assert scores["nll"] == pytest.approx(0.6931, abs=5e-5)
    assert scores["mcc"] == 0.0


def test_ece_of_an_overconfident_model():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.tile([0.95, 0.05], (4, 1))
    assert metrics.classification(labels, probabilities, ("a", "b"))["ece"] == pytest.approx(0.95 - 0.75)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_not_finite_fail_the_trial(bad):
    labels, probabilities = predictions()
    probabilities[3, 1] = bad
    with pytest.raises(TrialError, match="1 of 200 cases are not finite") as caught:
        metrics.classification(labels, probabilities, CLASSES)
    assert caught.value.reason == "nan"


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.array([0, 1]), np.eye(3), "labels .N,. and probabilities"),
        (np.array([], int), np.zeros((0, 3)), "N >= 1 must hold"),
        (np.array([0, 1]), np.array([[2.0, -1, 0], [0, 0, 1]]), "Were logits meant"),
        (np.array([0, 3]), np.eye(3)[:2], "whole numbers in 0..2"),
        (np.array([0.0, 1.0]), np.eye(3)[:2], "whole numbers in 0..2"),
    ],
)
def test_wrong_input_is_reported(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.classification(labels, probabilities, CLASSES)


def test_names_must_match_columns():
    with pytest.raises(ValueError, match="2 names, 3 columns"):
        metrics.classification(*predictions(), CLASSES[:2])


def test_per_class_agrees_with_confusion_and_scikit_learn():
    from sklearn.metrics import precision_recall_fscore_support

    labels, probabilities = predictions()
    counts, table = metrics.confusion(labels, probabilities), metrics.per_class(labels, probabilities, CLASSES)
    expected = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    for k, name in enumerate(CLASSES):
        result = [table[name][key] for key in ("precision", "recall", "f1", "cases")]
        assert result == pytest.approx([column[k] for column in expected])
        others = np.delete(counts, k, axis=0)
        assert table[name]["specificity"] == pytest.approx(1 - others[:, k].sum() / others.sum())


def test_collapse_starts_above_95_percent():
    probabilities = np.eye(3)[np.repeat([0, 1], [95, 5])]
    assert not metrics.collapsed(probabilities)
    assert metrics.collapse_sentence(probabilities, CLASSES) == ""
    probabilities = np.eye(3)[np.repeat([1, 0], [96, 4])]
    assert metrics.collapsed(probabilities)
    assert "collapsed: it predicts 'bacterial' for 96.0 % of the cases" in metrics.collapse_sentence(
        probabilities, CLASSES
    )


def test_names_and_directions_are_known_without_scikit_learn():
    code = "import sys; import lungtune.tasks.classification.metrics, lungtune.tasks.classification as c; "
    code += "assert c.Classification().metrics['nll'].mode == 'min'; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "numpy", "torch", "scipy"} & set(loaded)


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=40),
    seed=st.integers(0, 2**32 - 1),
    ties=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_ranking_metrics_agree_with_scikit_learn(labels, seed, ties):
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels = np.array(labels)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(labels))
    if ties:
        probabilities = np.round(probabilities, 1) + 0.01
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    table = metrics.per_class(labels, probabilities, CLASSES)
    scores = metrics.classification(labels, probabilities, CLASSES)
    present, both = np.unique(labels), len(np.unique(labels)) > 1
    precisions = [average_precision_score(labels == k, probabilities[:, k]) for k in present]
    areas = [roc_auc_score(labels == k, probabilities[:, k]) for k in present] if both else [0.5]
    assert [table[CLASSES[k]]["ap"] for k in present] == pytest.approx(precisions)
    assert scores["macro_ap"] == pytest.approx(np.mean(precisions))
    assert scores["macro_auroc"] == pytest.approx(np.mean(areas))


def test_average_precision_of_a_blind_model_is_the_prevalence():
    table = metrics.per_class(np.repeat([0, 1], [30, 10]), np.tile([0.6, 0.3, 0.1], (40, 1)), CLASSES)
    assert [row["ap"] for row in table.values()] == [0.75, 0.25, 0.0]


@given(labels=st.lists(st.integers(0, 2), min_size=6, max_size=40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_every_metric_that_scikit_learn_knows_is_its(labels, seed):
    from sklearn import metrics as oracle

    labels = np.array([0, 1, 2, *labels])
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(labels))
    output, scores = probabilities.argmax(axis=1), metrics.classification(labels, probabilities, CLASSES)
    expected = {
        "macro_f1": oracle.f1_score(labels, output, average="macro"),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, output),
        "accuracy": oracle.accuracy_score(labels, output),
        "macro_auroc": oracle.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "macro_ap": oracle.average_precision_score(np.eye(3)[labels], probabilities),
        "mcc": oracle.matthews_corrcoef(labels, output),
        "nll": oracle.log_loss(labels, probabilities),
        "brier": ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1).mean(),
    }
    assert expected.keys() == METRICS.keys() - {"ece"}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert (metrics.confusion(labels, probabilities) == oracle.confusion_matrix(labels, output)).all()
