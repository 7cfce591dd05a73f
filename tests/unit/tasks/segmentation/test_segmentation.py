"""Segmentation task: loss, case-wise scores, mean-mask baseline."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungtune.data.dataset import Part
from lungtune.errors import TrialError
from lungtune.tasks.segmentation import Segmentation, baselines

TASK = Segmentation()
SHAPES = [(1, 8, 8), (1, 4, 6, 6)]


class Batch(dict):
    """Targets of a batch, and which rows have a mask."""

    def __init__(self, masks, has):
        super().__init__(mask=masks)
        self._has = torch.as_tensor(has)

    def has(self, name):
        assert name == "mask"
        return self._has


def halves(rows, shape):
    """Masks whose first half along the last axis is set, float 0 or 1."""
    masks = torch.zeros(rows, *shape)
    masks[..., : shape[-1] // 2] = 1
    return masks


def certain(masks):
    """Logits that are sure of ``masks``."""
    return (masks * 2 - 1) * 20


@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
def test_loss_is_soft_dice_of_rows_with_a_mask(shape):
    masks = halves(3, shape)
    logits = torch.stack([certain(masks)[0], certain(1 - masks)[1], torch.zeros(shape)]).requires_grad_()
    losses = TASK.loss({"mask": logits}, Batch(masks, [True, True, True]), None)
    assert losses.dtype == torch.float32
    assert losses.tolist() == pytest.approx([0, 1, 0.5], abs=1e-4)
    losses = TASK.loss({"mask": logits}, Batch(masks, [True, False, False]), None)
    assert losses[1:].tolist() == [0, 0]
    losses.sum().backward()
    assert (logits.grad[1:] == 0).all()


def test_loss_of_half_precision_is_float32():
    masks = halves(2, SHAPES[0])
    losses = TASK.loss({"mask": certain(masks).bfloat16()}, Batch(masks, [True, True]), None)
    assert losses.dtype == torch.float32


def test_rows_without_a_decoder_have_no_loss_and_no_gradient():
    """Their logits are NaN, which must reach neither the sum nor the other rows' gradients."""
    masks = halves(2, SHAPES[0])
    logits = torch.cat([torch.full((1, *SHAPES[0]), torch.nan), torch.zeros(1, *SHAPES[0])]).requires_grad_()
    losses = TASK.loss({"mask": logits}, Batch(masks, [True, True]), None)
    assert losses[0] == 0
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[1] != 0).any()


@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
def test_scores_are_nan_without_mask_or_decoder(shape):
    masks = halves(4, shape)
    logits = certain(masks)
    logits[1] = certain(torch.ones(shape))
    logits[3] = torch.nan
    predictions = TASK.predict({"mask": logits}, Batch(masks, [True, True, False, True]))
    assert tuple(predictions) == TASK.predicted
    assert predictions["dice"][:2].tolist() == pytest.approx([1, 2 / 3], abs=1e-4)
    assert predictions["iou"][:2].tolist() == pytest.approx([1, 0.5], abs=1e-4)
    assert predictions["dice"][2:].isnan().all()


def part(rows, shape, has, shift=0):
    masks = np.zeros((rows, *shape), np.uint8)
    masks[..., shift : shift + shape[-1] // 2] = 255
    masks[~np.asarray(has)] = 0
    return Part.of(mask=masks, known={"mask": np.asarray(has)})


@pytest.mark.parametrize("shape", SHAPES, ids=["2D", "3D"])
def test_mean_mask_is_that_of_the_training_masks(shape):
    many = baselines._AT_ONCE + 5
    train = part(many, shape, np.arange(many) % 3 > 0)
    mean = baselines.mean_mask(train)
    assert mean.shape == shape
    assert mean[..., : shape[-1] // 2].all()
    assert not mean[..., shape[-1] // 2 :].any()
    same, half = part(4, shape, [True] * 4), part(4, shape, [True, False, True, True], shift=shape[-1] // 4)
    data = SimpleNamespace(train=train, validation=same)
    assert TASK.baselines(data) == {"mean mask": {"dice": 1.0, "iou": 1.0}}
    overlap = shape[-1] // 2 - shape[-1] // 4
    expected = 2 * overlap / (2 * (shape[-1] // 2))
    assert TASK.baselines(data, half)["mean mask"]["dice"] == pytest.approx(expected)


def test_mean_mask_agrees_with_the_task_on_random_masks():
    rng = np.random.default_rng(0)
    masks = (rng.random((20, 1, 6, 6)) < 0.6).astype(np.uint8) * 255
    train, scored = Part.of(mask=masks[:12]), Part.of(mask=masks[12:])
    scores = baselines.mean_mask_scores(train, scored)
    logits = certain(torch.from_numpy(baselines.mean_mask(train)).float().expand(8, 1, 6, 6))
    predictions = TASK.predict({"mask": logits}, Batch(torch.from_numpy(masks[12:] / 255).float(), [True] * 8))
    assert scores == {name: pytest.approx(float(each.mean()), abs=1e-5) for name, each in predictions.items()}


def test_no_baseline_without_masks():
    bare = part(3, SHAPES[0], [False] * 3)
    assert TASK.baselines(SimpleNamespace(train=bare, validation=bare)) == {}
    assert TASK.baselines(SimpleNamespace(train=Part.of(label=np.arange(3)), validation=bare)) == {}


class Pack:
    """Predicts what it was given, for the tasks of a family together."""

    def __init__(self, **found):
        self.found = {name: torch.as_tensor(each) for name, each in found.items()}

    def predict(self, part, slots=None):
        return dict.fromkeys(slots, self.found)


def evaluator():
    dataset = SimpleNamespace(classes=("normal", "viral"))
    return TASK.evaluator(None, None, dataset, torch.device("cpu"))


def test_evaluator_scores_its_own_of_what_the_family_predicts():
    pack = Pack(probabilities=np.eye(3), dice=np.array([0.5, np.nan, 1.0]), iou=np.array([0.4, np.nan, 0.8]))
    mine = evaluator()
    predicted = mine.predict(pack, 2, None)
    assert set(predicted) == {"dice", "iou"}
    assert mine.scores(None, predicted) == {"dice": pytest.approx(0.75), "iou": pytest.approx(0.6)}
    assert len(mine.kept(None, predicted)) == 3
    assert mine.picture(predicted) is None
    assert mine.references(pack, None) == {}


def test_evaluator_leaves_out_what_no_case_allows():
    nothing = {"dice": np.full(3, np.nan), "iou": np.full(3, np.nan)}
    assert evaluator().scores(None, nothing) == {}


def test_infinite_measures_fail_the_trial():
    with pytest.raises(TrialError, match="The predictions of dice are not finite") as caught:
        evaluator().scores(None, {"dice": np.array([np.inf]), "iou": np.array([0.5])})
    assert caught.value.reason == "nan"


def test_tasks_import_light():
    code = "import sys; import lungtune.tasks.segmentation, lungtune.tasks.classification, lungtune.tasks.generation; "
    code += "print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "sklearn", "matplotlib", "pandas", "scipy"} & set(loaded)


def test_as_objective_a_mask_without_prediction_scores_zero():
    known = part(3, SHAPES[0], [True, False, True])
    predicted = {"dice": np.array([np.nan, np.nan, 0.5]), "iou": np.array([np.nan, np.nan, 0.3])}
    result = TASK.for_objective(known, predicted)
    assert result["dice"].tolist() == [0.0, pytest.approx(np.nan, nan_ok=True), 0.5]
    assert evaluator().scores(known, result) == {"dice": pytest.approx(0.25), "iou": pytest.approx(0.15)}
