"""Binary cross-entropy over the known labels of a batch, with each trial's treatment of uncertain and rare labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lungtune.core.fields import UNCERTAIN
from lungtune.layers.losses import inverse_frequency
from lungtune.tasks.multilabel import UNCERTAIN_AS


def cross_entropy(
    logits: Tensor, labels: Tensor, label_counts: Tensor, params: Sequence[Any], rows: Sequence[int]
) -> Tensor:
    """Return each row's loss ``(N,)``: the sum over its known labels, divided by L; 0 without any.

    Args:
        logits: ``(N, L)``.
        labels: ``(N, L)``: 0, ``UNCERTAIN``, 1, or NaN where unknown.
        label_counts: ``(3, L)``, absent, uncertain and present training cases of each label.
        params: each trial's ``Params``, with ``uncertain`` and ``positive_weighting``.
        rows: rows of each trial, contiguous and in this order.
    """
    each = torch.tensor(rows)

    def by_row(values: list[float]) -> Tensor:
        column = torch.tensor(values).repeat_interleave(each).unsqueeze(1)
        return column.to(logits.device, non_blocking=True)

    taken_as = [UNCERTAIN_AS[p.uncertain] for p in params]
    target = torch.where(labels == UNCERTAIN, by_row(taken_as), labels)
    known = ~target.isnan()
    target = target.nan_to_num(0.0)
    weights = [side_weights(label_counts, value, p.positive_weighting) for value, p in zip(taken_as, params)]
    absent, present = torch.cat([w.expand(n, -1, -1) for w, n in zip(weights, rows)]).unbind(1)
    smoothing = by_row([getattr(p, "label_smoothing", 0.0) for p in params])
    smooth = target * (1 - smoothing) + smoothing / 2
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), smooth, reduction="none")
    losses = losses * torch.lerp(absent, present, target)
    return torch.where(known, losses, 0.0).sum(1) / labels.shape[1]


def side_weights(label_counts: Tensor, taken_as: float, weighting: str) -> Tensor:
    """Return the weights ``(2, L)`` of absent and present labels, whose mean over the known training labels is one.

    Args:
        label_counts: see :func:`cross_entropy`.
        taken_as: target of uncertain labels; NaN: they do not count.
        weighting: ``none``, ``sqrt`` or ``balanced``.
    """
    absent, uncertain, present = label_counts
    open_share = 0.0 if taken_as != taken_as else taken_as
    counted = 0.0 if taken_as != taken_as else 1.0
    sides = torch.stack([absent + counted * (1 - open_share) * uncertain, present + open_share * uncertain], dim=1)
    return inverse_frequency(sides, weighting).T
