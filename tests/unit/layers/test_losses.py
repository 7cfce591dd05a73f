"""Class weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lungtune.layers.losses import WEIGHTINGS, class_weights, cross_entropy, overlap

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_average_to_one_over_the_training_images(weighting: str) -> None:
    assert class_weights(LABELS, 3, weighting)[LABELS].mean() == pytest.approx(1.0)


def test_balanced_gives_every_class_the_same_share() -> None:
    weights = class_weights(LABELS, 3, "balanced")
    torch.testing.assert_close(weights * torch.tensor([60.0, 30.0, 10.0]), torch.full((3,), 100 / 3))


def test_sqrt_weights_are_between_none_and_balanced() -> None:
    ratios = [(w[2] / w[0]).item() for w in (class_weights(LABELS, 3, k) for k in WEIGHTINGS)]
    assert ratios == [pytest.approx(1.0), pytest.approx(6**0.5), pytest.approx(6.0)]


def test_class_without_images_gets_a_finite_weight() -> None:
    assert class_weights(LABELS, 4, "balanced").isfinite().all()
    assert class_weights(LABELS, 4, "none").tolist() == [1.0] * 4


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="class_weighting must be one of none, sqrt, balanced"):
        class_weights(LABELS, 3, "fair")


def test_weights_act_even_when_a_batch_shows_one_class() -> None:
    logits, labels = torch.zeros(4, 3), torch.full((4,), 2)
    weights = class_weights(LABELS, 3, "balanced")[labels]
    expected = torch.log(torch.tensor(3.0)) * 100 / 30
    torch.testing.assert_close(cross_entropy(logits, labels, weights).mean(), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_is_torchs(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(9, 4, generator=generator), torch.randint(4, (9,), generator=generator)
    ours = cross_entropy(logits, labels, torch.ones(9), [smoothing, 0.0], [5, 4])
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    plain = F.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(ours, torch.cat([expected[:5], plain[5:]]))


def test_overlap_of_binary_masks_is_dice_and_iou() -> None:
    """The oracle: F1 and Jaccard score of the pixels, from scikit-learn."""
    from sklearn.metrics import f1_score, jaccard_score

    generator = torch.Generator().manual_seed(1)
    result, truth = (torch.rand(6, 1, 9, 9, generator=generator) > 0.6 for _ in range(2))
    dice, iou = overlap(result.float(), truth.float())
    for i in range(6):
        pixels = truth[i].flatten().numpy(), result[i].flatten().numpy()
        assert dice[i].item() == pytest.approx(f1_score(*pixels), abs=1e-5)
        assert iou[i].item() == pytest.approx(jaccard_score(*pixels), abs=1e-5)
    nothing = torch.zeros(1, 1, 4, 4)
    assert [value.item() for value in overlap(nothing, nothing)] == [1.0, 1.0]


def test_explicit_weights_keep_their_ratios_and_average_to_one() -> None:
    weights = class_weights(LABELS, 3, [3.0, 1.0, 2.0])
    torch.testing.assert_close(weights / weights[1], torch.tensor([3.0, 1.0, 2.0]))
    assert weights[LABELS].mean() == pytest.approx(1.0)


def test_focal_loss_is_its_definition_for_each_slot() -> None:
    """Lin et al. 2017, equation 5, in float64; a slot with gamma 0 has the cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3 * torch.randn(11, 4, generator=generator), torch.randint(4, (11,), generator=generator)
    weights = torch.rand(11, generator=generator)
    ours = cross_entropy(logits, labels, weights, [0.0, 0.0, 0.0], [4, 4, 3], [0.0, 0.5, 2.0])
    p = logits.double().softmax(1)[range(11), labels]
    gamma = torch.tensor([0.0] * 4 + [0.5] * 4 + [2.0] * 3, dtype=torch.float64)
    torch.testing.assert_close(ours.double(), -weights * (1 - p) ** gamma * p.log(), atol=1e-6, rtol=1e-5)
    plain = cross_entropy(logits, labels, weights)
    assert torch.equal(ours[:4], plain[:4])


def test_smoothed_focal_loss_weighs_each_class_of_the_target() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(6, 3, generator=generator), torch.randint(3, (6,), generator=generator)
    ours = cross_entropy(logits, labels, torch.ones(6), [0.3], [6], [2.0])
    p = logits.double().softmax(1)
    target = 0.7 * F.one_hot(labels, 3) + 0.1
    torch.testing.assert_close(ours.double(), -(target * (1 - p) ** 2 * p.log()).sum(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_focal_loss_of_certain_predictions_has_a_finite_gradient(gamma: float, size: float) -> None:
    logits = (size * torch.tensor([[1.0, 0.0], [0.0, 1.0]])).requires_grad_()
    losses = cross_entropy(logits, torch.tensor([0, 0]), torch.ones(2), [0.0], [2], [gamma])
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert losses[0] < losses[1]
