"""Classification task: loss, predictions, evaluator."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungtune.data.dataset import Part
from lungtune.tasks.classification import Classification, metrics
from lungtune.tasks.classification.predictions import Probabilities

CLASSES = ("normal", "bacterial", "viral")
LABELS = np.arange(12) % 3


class Batch(dict):
    """Labels and class weights of a batch."""

    def __init__(self, labels, weights):
        super().__init__(label=torch.as_tensor(labels))
        self.weights = torch.as_tensor(weights)


def layout(*smoothing, counts=(12,)):
    params = tuple(SimpleNamespace() if each is None else SimpleNamespace(label_smoothing=each) for each in smoothing)
    return SimpleNamespace(params=params, counts=counts)


def test_loss_is_the_weighted_cross_entropy():
    logits, weights = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.rand(12)
    losses = Classification().loss({"logits": logits}, Batch(LABELS, weights), layout(None))
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS), reduction="none") * weights
    assert torch.allclose(losses, expected, atol=1e-6)
    assert losses.dtype == torch.float32


def test_label_smoothing_is_each_slots_own():
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    batch, labels = Batch(LABELS, torch.ones(12)), torch.from_numpy(LABELS)
    losses = Classification().loss({"logits": logits}, batch, layout(0.2, None, counts=(5, 7)))
    entropy = torch.nn.functional.cross_entropy
    smooth = entropy(logits.float(), labels, reduction="none", label_smoothing=0.2)
    plain = entropy(logits.float(), labels, reduction="none")
    assert torch.allclose(losses, torch.cat([smooth[:5], plain[5:]]), atol=1e-6)


def test_predictions_are_probabilities_of_every_head():
    task = Classification(heads=("convolutions",))
    predictions = task.predict(
        {"logits": torch.zeros(2, 4), "convolutions": torch.eye(2, 4), "other": torch.ones(2)}, None
    )
    assert tuple(predictions) == task.predicted == ("probabilities", "convolutions")
    assert (predictions["probabilities"] == 0.25).all()
    assert predictions["convolutions"].sum(1).tolist() == pytest.approx([1, 1])


def evaluated(heads=()):
    rng = np.random.default_rng(0)
    task = Classification(heads)
    predicted = {name: rng.dirichlet(np.ones(3), 12) for name in task.predicted}
    mine = task.evaluator(None, None, SimpleNamespace(classes=CLASSES), torch.device("cpu"))
    return mine, Part.of(label=LABELS), predicted


def test_evaluator_also_scores_heads():
    mine, part, predicted = evaluated(heads=("convolutions",))
    scores = mine.scores(part, predicted)
    assert scores.pop("macro_f1_convolutions") == pytest.approx(
        metrics.classification(LABELS, predicted["convolutions"], CLASSES)["macro_f1"]
    )
    assert scores == metrics.classification(LABELS, predicted["probabilities"], CLASSES)


def test_evaluator_keeps_labels_and_probabilities():
    mine, part, predicted = evaluated()
    kept = mine.kept(part, predicted)
    assert isinstance(kept, Probabilities)
    assert set(kept.tensors()) == {"labels", "probabilities"}
    scores = mine.scores(part, predicted)
    scorer, ones = kept.scorer(np.arange(12)), np.ones((1, 12), int)
    for shown, name in mine.task.scorer_names(CLASSES).items():
        assert scorer.score(name, ones)[0] == pytest.approx(scores[shown]), shown


def test_figures_are_reported_as_the_task_shows_them():
    kept = Probabilities(LABELS, np.random.default_rng(0).dirichlet(np.ones(3), 12))
    result = dict(kept.figures("a title", CLASSES))
    assert tuple(result) == Classification.shown
    assert all(png.startswith(b"\x89PNG") for png in result.values())
    with pytest.raises(ValueError, match="probabilities must be"):
        list(kept.figures("a title", CLASSES[:2]))


def test_constant_class_is_chosen_on_training():
    train, part = Part.of(label=np.array([1, 1, 1, 0])), Part.of(label=np.array([1, 0, 2]))
    data = SimpleNamespace(train=train, validation=Part.of(label=np.array([1, 1])), classes=CLASSES)
    assert Classification().baselines(data)["constant"]["accuracy"] == 1.0
    assert Classification().baselines(data, part)["constant"]["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("metric", "mode", "sign"), [("macro_f1", "max", 1), ("nll", "min", -1)])
def test_metrics_have_their_direction(metric, mode, sign):
    result = Classification().metrics[metric]
    assert (result.mode, result.sign) == (mode, sign)
