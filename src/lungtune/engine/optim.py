"""AdamW over stacked trials, and the learning-rate schedule.

AdamW: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2, as in
``torch.optim.AdamW``; here every trial has its own rate, decay and step count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def rate(step: int, *, peak: float, total: int, warmup: float) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine down to zero.

    Args:
        step: steps already taken, >= 0.
        peak: rate after the warm-up.
        total: steps of the whole horizon, >= 1; the rate is zero from there on.
        warmup: share of the horizon, in [0, 1), over which the rate rises.
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    if step >= total:
        return 0.0
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - rising) / (total - rising)))


@dataclass(frozen=True)
class Update:
    """One slot's settings of one step: learning rate, weight decay, and the number of the step (from 1)."""

    rate: float
    decay: float
    step: int


def adamw(
    values: Tensor,
    mean: Tensor,
    square: Tensor,
    grads: Tensor,
    updates: Sequence[Update],
    scales: Tensor | None = None,
) -> None:
    """Take one AdamW step of every slot, in place; ``grads`` is used up as scratch.

    Args:
        values: ``(K, P)`` parameters.
        mean: ``(K, P)`` running means of the gradient.
        square: ``(K, P)`` running means of its square.
        grads: ``(K, P)`` gradients; overwritten.
        updates: one for each slot.
        scales: ``(K, P)`` factors on the learning rate, which decay follows; None for 1 everywhere.
    """
    # Bias corrections in double precision, as torch does; a single host-to-device copy carries all slots' numbers.
    rows = [
        (
            1.0 - u.rate * u.decay,
            -u.rate * u.decay,
            1.0 / math.sqrt(1.0 - BETA2**u.step),
            -u.rate / (1.0 - BETA1**u.step),
        )
        for u in updates
    ]
    table = torch.tensor(rows, dtype=values.dtype).to(values.device, non_blocking=True)
    keep, fade, root, pace = table.T.unsqueeze(-1)
    mean.lerp_(grads, 1.0 - BETA1)
    square.mul_(BETA2).addcmul_(grads, grads, value=1.0 - BETA2)
    scratch = torch.sqrt(square, out=grads)
    scratch.mul_(root).add_(EPS)
    torch.div(mean, scratch, out=scratch)
    if scales is None:
        values.mul_(keep).addcmul_(scratch, pace)
    else:
        values.addcmul_(values * scales, fade).addcmul_(scratch.mul_(scales), pace)
