"""Class weights."""

from __future__ import annotations

import pytest
import torch

from lungtune.nn.losses import WEIGHTINGS, Targets, class_weights

LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_average_to_one_over_the_training_images(weighting: str) -> None:
    assert class_weights(LABELS, 3, weighting)[LABELS].mean() == pytest.approx(1.0)


def test_balanced_gives_every_class_the_same_share() -> None:
    weights = class_weights(LABELS, 3, "balanced")
    torch.testing.assert_close(weights * torch.tensor([60.0, 30.0, 10.0]), torch.full((3,), 100 / 3))


def test_sqrt_lies_between_none_and_balanced() -> None:
    ratios = [(w[2] / w[0]).item() for w in (class_weights(LABELS, 3, k) for k in WEIGHTINGS)]
    assert ratios == [pytest.approx(1.0), pytest.approx(6**0.5), pytest.approx(6.0)]


def test_a_class_without_images_does_no_harm() -> None:
    assert class_weights(LABELS, 4, "balanced").isfinite().all()
    assert class_weights(LABELS, 4, "none").tolist() == [1.0] * 4


def test_unknown_weighting_is_refused() -> None:
    with pytest.raises(ValueError, match="class_weighting must be one of none, sqrt, balanced"):
        class_weights(LABELS, 3, "fair")


def test_weights_act_even_when_a_batch_shows_one_class() -> None:
    logits, labels = torch.zeros(4, 3), torch.full((4,), 2)
    weights = class_weights(LABELS, 3, "balanced")[labels]
    expected = torch.log(torch.tensor(3.0)) * 100 / 30
    torch.testing.assert_close(Targets(labels, weights).cross_entropy(logits).mean(), expected)
