"""Class weights, cross-entropy and Dice over the rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WEIGHTINGS = ("none", "sqrt", "balanced")
"""Choices of ``class_weighting``: equal weights; softened; inverse to the class's frequency."""


def class_weights(labels: Tensor, classes: int, weighting: str | Sequence[float]) -> Tensor:
    """Return ``(classes,)`` float32 weights whose mean over the training images is one.

    Args:
        labels: ``(N,)`` int64 labels of the training fold.
        classes: number of classes; a class without images has weight 0 unless ``weighting`` is none.
        weighting: ``none``: 1; ``balanced``: N / (classes * n_c); ``sqrt``: proportional to 1 / sqrt(n_c); or numbers
            that the weights are proportional to, one for each class.

    Raises:
        ValueError: an unknown ``weighting``.
    """
    counts = torch.bincount(labels.cpu(), minlength=classes)
    if isinstance(weighting, str):
        return inverse_frequency(counts, weighting)
    weights = torch.tensor(weighting, dtype=torch.float64)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def inverse_frequency(counts: Tensor, weighting: str) -> Tensor:
    """Return float32 weights ``(..., K)`` of K kinds of cases, whose mean over the cases is one.

    Args:
        counts: ``(..., K)``; without any case all weights are 1.
        weighting: see :func:`class_weights`.

    Raises:
        ValueError: an unknown ``weighting``.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"class_weighting must be one of {', '.join(WEIGHTINGS)}, but got {weighting!r}")
    counts = counts.double()
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[weighting]
    weights = torch.where(counts > 0, counts.clamp(min=1e-9) ** -power, 0.0 if power else 1.0)
    total, weighted = counts.sum(-1, keepdim=True), (weights * counts).sum(-1, keepdim=True)
    return torch.where(weighted > 0, weights * total / weighted.clamp(min=1e-30), torch.ones_like(weights)).float()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    smoothing: Sequence[float] = (),
    counts: Sequence[int] = (),
    gammas: Sequence[float] = (),
) -> Tensor:
    """Return ``(N,)`` weighted cross-entropies, or focal losses: ``-w sum_k q_k (1 - p_k)^gamma log p_k``.

    q is one for the right class and zero for the others, or smoothed. With gamma 0 this is the cross-entropy, without
    smoothing the alpha-balanced focal loss of Lin et al. 2017 (arXiv 1708.02002, eq. 5), alpha the class weight.

    The mean over a batch is *not* divided by the batch's own weights: with a batch of four that would undo the
    weighting whenever all four show one class.

    Args:
        logits: ``(N, classes)``.
        labels: int64 ``(N,)``.
        weights: float ``(N,)``, each row's class weight.
        smoothing: label smoothing in [0, 1) of each slot (Szegedy et al. 2016, arXiv 1512.00567): so much of the
            target is spread evenly over all classes; default none.
        counts: rows of each slot; needed with ``smoothing`` and ``gammas``.
        gammas: gamma >= 0 of each slot; default 0.
    """
    losses = -torch.log_softmax(logits.float(), 1)

    def by_row(values: Sequence[float]) -> Tensor:
        return torch.tensor(values).repeat_interleave(torch.tensor(counts)).to(losses.device, non_blocking=True)

    if any(gammas):
        losses = losses * (by_row(gammas).unsqueeze(1) * _log_complements(-losses)).exp()
    right = losses.gather(1, labels.unsqueeze(1)).squeeze(1)
    if any(smoothing):
        right = torch.lerp(right, losses.mean(1), by_row(smoothing))
    return right * weights


def _log_complements(logs: Tensor) -> Tensor:
    """Return log(1 - p_k) for log-probabilities ``(N, classes)``, two classes or more.

    It is the log of the sum of the other classes' probabilities: where p_k rounds to 1, the log of 1 - p_k and its
    gradient would be infinite.
    """
    own = torch.eye(logs.shape[1], dtype=torch.bool, device=logs.device)
    return logs.unsqueeze(1).masked_fill(own, -torch.inf).logsumexp(2)


def overlap(probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return soft Dice and IoU ``(N,)`` of each row, in [0, 1]; 1 where both are empty.

    Dice is 2 sum(p m) / (sum p + sum m), as in V-Net (Milletari et al. 2016, arXiv 1606.04797) without squares.

    Args:
        probabilities: ``(N, 1, ...)`` in [0, 1]; with zeros and ones these are the plain measures.
        masks: of the same shape, 0 or 1.
    """
    p, m = probabilities.float().flatten(1), masks.float().flatten(1)
    both, total = (p * m).sum(1), p.sum(1) + m.sum(1)
    return (2 * both + 1e-6) / (total + 1e-6), (both + 1e-6) / (total - both + 1e-6)
