"""Optimisers over stacked trials, and learning-rate schedules.

Each function performs one step of every slot, in place; slots differ in rate, decay, momentum and step count. State is
``mean`` and ``square``, ``(K, P)`` each, zero at the start.

- ``adamw``: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), algorithm 2, as
  ``torch.optim.AdamW``.
- ``adam``: Kingma & Ba (arXiv 1412.6980), weight decay added to the gradient, as ``torch.optim.Adam``.
- ``sgd``: momentum without dampening, kept in ``mean``; weight decay added to the gradient, as ``torch.optim.SGD``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def rate(
    step: int,
    *,
    peak: float,
    total: int,
    warmup: float,
    schedule: str = "cosine",
    start: float = 0.0,
    cosine: float = 0.0,
    every: float = 1.0,
    gamma: float = 1.0,
) -> float:
    """Return the learning rate of a step: a linear warm-up, then a schedule. Shares are of the horizon.

    Args:
        step: steps already taken, >= 0.
        peak: rate after the warm-up.
        total: steps of the horizon, >= 1.
        warmup: share of the warm-up, in [0, 1).
        schedule: ``cosine``: half a cosine from ``peak`` to zero; ``constant``: ``peak``; ``step``: ``peak`` times
            ``gamma`` to the number of ``every`` shares that have passed since the warm-up.
        start: where the warm-up begins, as a factor on ``peak``, as in ``torch.optim.lr_scheduler.LinearLR``. With 0,
            the first of n steps has 1/n of ``peak`` and the last one all of it.
        cosine: share of the half cosine; the rate rises again after it, as ``CosineAnnealingLR``'s does. 0: all
            that the warm-up leaves, and zero from the end of the horizon on.
        every: share between two falls of ``step``, > 0, as ``StepLR``'s ``step_size``.
        gamma: factor of each fall.
    """
    rising = round(warmup * total)
    if step < rising:
        return peak * (start + (1.0 - start) * step / rising) if start else peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * gamma ** math.floor((step - rising) / (every * total) + 1e-9)  # 3 / (0.1 * 30) is below 1
    if cosine:
        return peak * 0.5 * (1.0 + math.cos(math.pi * (step - rising) / (cosine * total)))
    if step >= total:
        return 0.0
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - rising) / (total - rising)))


@dataclass(frozen=True)
class Update:
    """One slot's settings of one step: learning rate, weight decay, number of the step (from 1), optimiser."""

    rate: float
    decay: float
    step: int
    optimizer: str = "adamw"
    momentum: float = 0.0


Step = Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[Update], Tensor | None], None]


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
        scales: ``(K, P)`` factors on the learning rate, which decoupled decay follows; None for 1 everywhere.
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
    keep, fade, root, pace = _columns(rows, values)
    mean.lerp_(grads, 1.0 - BETA1)
    square.mul_(BETA2).addcmul_(grads, grads, value=1.0 - BETA2)
    scratch = torch.sqrt(square, out=grads)
    scratch.mul_(root).add_(EPS)
    torch.div(mean, scratch, out=scratch)
    if scales is None:
        values.mul_(keep).addcmul_(scratch, pace)
    else:
        values.addcmul_(values * scales, fade).addcmul_(scratch.mul_(scales), pace)


def adam(
    values: Tensor,
    mean: Tensor,
    square: Tensor,
    grads: Tensor,
    updates: Sequence[Update],
    scales: Tensor | None = None,
) -> None:
    """Take one Adam step of every slot, in place; arguments as of :func:`adamw`."""
    (decay,) = _columns([(u.decay,) for u in updates], values)
    grads.addcmul_(values, decay)
    adamw(values, mean, square, grads, [replace(u, decay=0.0) for u in updates], scales)


def sgd(
    values: Tensor,
    mean: Tensor,
    square: Tensor,
    grads: Tensor,
    updates: Sequence[Update],
    scales: Tensor | None = None,
) -> None:
    """Take one SGD step of every slot, in place; arguments as of :func:`adamw`, but ``mean`` holds the momentum."""
    decay, momentum, pace = _columns([(u.decay, u.momentum, -u.rate) for u in updates], values)
    grads.addcmul_(values, decay)
    mean.mul_(momentum).add_(grads)
    values.addcmul_(mean if scales is None else mean * scales, pace)


OPTIMIZERS: Mapping[str, Step] = {"adamw": adamw, "adam": adam, "sgd": sgd}


def _columns(rows: Sequence[tuple[float, ...]], values: Tensor) -> Sequence[Tensor]:
    """Return the columns of one row a slot, ``(K, 1)`` each, on the parameters' device."""
    table = torch.tensor(rows, dtype=values.dtype).to(values.device, non_blocking=True)
    return table.T.unsqueeze(-1).unbind(0)
