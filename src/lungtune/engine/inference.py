"""What a trial of a pack makes of images, or draws, with its weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from lungtune.core.family import Classifier, Generator
from lungtune.engine import memory
from lungtune.inputs.feature_cache import CachedFeatures
from lungtune.inputs.on_the_fly import OnTheFlyInputs
from lungtune.layers.layout import BatchLayout
from lungtune.layers.losses import Targets

Showing = Callable[[int], AbstractContextManager[BatchLayout]]
"""Lets a model's layers see a layout of so many rows of one slot, without gradients, inside a ``with`` block."""


def judge(
    trainable: Classifier, model: nn.Module, showing: Showing, inputs: OnTheFlyInputs | CachedFeatures, stride: int
) -> dict[str, Tensor]:
    """Judge images, ``stride`` at a time.

    Returns:
        On the CPU: ``probabilities`` float32 ``(N, classes)``, and what the family's ``judge`` adds.
    """

    def some(first: int, last: int) -> dict[str, Tensor]:
        rows, masks = inputs.plain(first, last)
        nobody = torch.full((last - first,), -1, device=rows.device)
        known = None if inputs.known is None else inputs.known[first:last]
        targets = Targets(nobody, torch.ones_like(nobody), masks, known)
        with showing(last - first) as slots:
            outputs = trainable.outputs(model, rows, slots)
        judged = {"probabilities": outputs["logits"].float().softmax(1), **trainable.judge(outputs, targets)}
        return {name: value.float().cpu() for name, value in judged.items()}

    with torch.no_grad():
        parts = memory.in_parts(len(inputs), stride, some)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def draw(
    trainable: Generator, model: nn.Module, showing: Showing, labels: Sequence[int], seeds: Sequence[int], stride: int
) -> Tensor:
    """Draw images, ``stride`` at a time: uint8 ``(N, H, W)`` on the CPU; see ``Generator.draw``."""

    def some(first: int, last: int) -> Tensor:
        with showing(last - first) as slots:
            images = trainable.draw(model, labels[first:last], seeds[first:last], slots)
        return images[:, 0].float().mul(255).round().to(torch.uint8).cpu()

    return torch.cat(memory.in_parts(len(labels), stride, some))
