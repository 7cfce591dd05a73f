"""The multi-label loss against torch's, masked labels, and each trial's treatment of uncertain and rare ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from lungtune.core.fields import UNCERTAIN
from lungtune.data.dataset import Part
from lungtune.tasks.multilabel import UNCERTAIN_AS, MultiLabel, MultiLabelParams

PLAIN = MultiLabelParams()


def labels(rows: int = 40, width: int = 5) -> torch.Tensor:
    """Return labels of every kind: absent, uncertain, present, unknown."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([0.0, 0.0, 0.0, UNCERTAIN, 1.0, torch.nan])
    return kinds[torch.randint(len(kinds), (rows, width), generator=generator)]


def loss(logits: torch.Tensor, truth: torch.Tensor, params: list[MultiLabelParams], counts: list[int]) -> torch.Tensor:
    task = MultiLabel()
    constants = task.constants(Part.of(labels=truth.numpy()))
    layout = SimpleNamespace(
        params=params, counts=counts, constants={name: torch.as_tensor(each) for name, each in constants.items()}
    )
    return task.loss({"logits": logits}, {"labels": truth}, layout)


@pytest.mark.parametrize("policy", UNCERTAIN_AS)
def test_loss_is_torchs_over_known_labels(policy):
    truth, logits = labels(), torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    target = torch.where(truth == UNCERTAIN, UNCERTAIN_AS[policy], truth)
    known = ~target.isnan()
    each = binary_cross_entropy_with_logits(logits[known], target[known], reduction="sum")
    got = loss(logits, truth, [replace(PLAIN, uncertain=policy)], [40])
    assert got.sum().item() * 5 == pytest.approx(each.item(), rel=1e-6)


def test_balanced_weights_are_torchs_pos_weight_up_to_a_factor():
    truth, logits = labels(), torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    absent, present = (truth == 0).sum(0), (truth == 1).sum(0)
    known = (truth == 0) | (truth == 1)
    each = binary_cross_entropy_with_logits(logits, truth.nan_to_num(0), pos_weight=absent / present, reduction="none")
    factor = (absent + present) / (2 * absent)
    expected = torch.where(known, each * factor, 0).sum(1) / 5
    got = loss(logits, truth, [replace(PLAIN, positive_weighting="balanced")], [40])
    torch.testing.assert_close(got, expected)


def test_each_trial_has_its_own_treatment():
    truth, logits = labels(), torch.zeros(40, 5)
    params = [replace(PLAIN, uncertain="ones"), replace(PLAIN, positive_weighting="sqrt")]
    together = loss(torch.cat([logits + 1, logits + 2]), torch.cat([truth, truth]), params, [40, 40])
    apart = [loss(logits + 1, truth, params[:1], [40]), loss(logits + 2, truth, params[1:], [40])]
    torch.testing.assert_close(together, torch.cat(apart))


@pytest.mark.parametrize("policy", UNCERTAIN_AS)
def test_masked_labels_get_no_gradient(policy):
    truth = labels()
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss(logits, truth, [replace(PLAIN, uncertain=policy)], [40]).sum().backward()
    masked = truth.isnan() | ((truth == UNCERTAIN) & (policy == "ignore"))
    assert logits.grad is not None
    assert logits.grad[masked].eq(0).all()
    assert logits.grad[~masked].ne(0).all()


def test_a_row_without_any_label_counts_zero():
    truth = torch.full((2, 3), torch.nan)
    truth[0] = torch.tensor([0.0, 1.0, 1.0])
    got = loss(torch.ones(2, 3), truth, [PLAIN], [2])
    assert got[1] == 0
    assert got[0] > 0


def test_label_counts_are_by_value():
    truth = np.array([[0, 1], [UNCERTAIN, 1], [np.nan, 0]], np.float32)
    counts = MultiLabel().constants(Part.of(labels=truth))["label_counts"]
    assert counts.tolist() == [[1, 1], [1, 0], [0, 2]]
