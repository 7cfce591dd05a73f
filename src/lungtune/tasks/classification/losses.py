"""Cross-entropy with class weights and label smoothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def cross_entropy(logits: Tensor, batch: Any, layout: Any) -> Tensor:
    """Return each row's weighted cross-entropy ``(N,)``, float32.

    The mean over a batch is *not* divided by the batch's own weights: with a batch of four that would undo the
    weighting whenever all four show one class.

    Args:
        logits: ``(N, C)``.
        batch: has ``label`` int64 ``(N,)`` and ``weights`` ``(N,)``.
        layout: its slots' ``Params`` may have ``label_smoothing`` in [0, 1) (Szegedy et al. 2016, arXiv 1512.00567):
            so much of the target is spread evenly over all classes.
    """
    logs = torch.log_softmax(logits.float(), 1)
    losses = -logs.gather(1, batch["label"].unsqueeze(1)).squeeze(1)
    smoothing = [getattr(params, "label_smoothing", 0.0) for params in layout.params]
    if any(smoothing):
        share = torch.tensor(smoothing).repeat_interleave(torch.tensor(layout.counts))
        losses = torch.lerp(losses, -logs.mean(1), share.to(logs.device, non_blocking=True))
    return losses * batch.weights
