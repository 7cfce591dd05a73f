"""Class weights of the training loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

WEIGHTINGS = ("none", "sqrt", "balanced")
"""Choices of ``class_weighting``: equal weights; softened; inverse to the class's frequency."""


def class_weights(labels: Tensor, classes: int, weighting: str) -> Tensor:
    """Return ``(classes,)`` float32 weights whose mean over the training images is one.

    Args:
        labels: ``(N,)`` int64 labels of the training fold.
        classes: number of classes; a class without images has weight 0 unless ``weighting`` is none.
        weighting: ``none``: 1; ``balanced``: N / (classes * n_c); ``sqrt``: proportional to 1 / sqrt(n_c).

    Raises:
        ValueError: an unknown ``weighting``.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"class_weighting must be one of {', '.join(WEIGHTINGS)}, but got {weighting!r}")
    counts = torch.bincount(labels.cpu(), minlength=classes).double()
    power = {"none": 0.0, "sqrt": 0.5, "balanced": 1.0}[weighting]
    weights = torch.where(counts > 0, counts.clamp(min=1.0) ** -power, 0.0 if power else 1.0)
    return (weights * counts.sum() / (weights * counts).sum()).float()


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return ``(N,)`` weighted cross-entropies.

    The mean over a batch is *not* divided by the batch's own weights: with a batch of four that would undo the
    weighting whenever all four show one class.

    Args:
        logits: ``(N, classes)``.
        labels: ``(N,)``.
        weights: ``(N,)`` weight of each row.
    """
    return F.cross_entropy(logits.float(), labels, reduction="none") * weights
