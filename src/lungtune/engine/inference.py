"""Inference with a pack's trial: predictions and generated images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.core.family import Family
from lungtune.core.io import progress
from lungtune.engine import memory
from lungtune.inputs.feature_cache import CachedFeatures
from lungtune.inputs.on_the_fly import OnTheFlyInputs
from lungtune.layers.layout import BatchLayout

Using = Callable[[int], AbstractContextManager[BatchLayout]]
"""Number of rows -> context manager that sets their layout, all of one slot, and switches gradients off."""


def predict(
    family: Family[Any, Any], model: nn.Module, using: Using, inputs: OnTheFlyInputs | CachedFeatures, stride: int
) -> dict[str, Tensor]:
    """Return the predictions of all of the family's tasks for all cases, ``stride`` at a time, float32 on the CPU."""
    compared = [name for task in family.tasks for name in task.compared]

    def some(first: int, last: int) -> dict[str, Tensor]:
        batch = inputs.plain(first, last, compared)
        with using(last - first) as layout:
            outputs = family.outputs(model, batch, layout)
        return {name: value.float().cpu() for name, value in family.predict(outputs, batch).items()}

    with torch.no_grad():
        parts = memory.in_parts(len(inputs), stride, some)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def draw(
    family: Any, model: nn.Module, using: Using, labels: Sequence[int], seeds: Sequence[int], stride: int
) -> Tensor:
    """Draw images, ``stride`` at a time: uint8 ``(N, H, W)`` on the CPU; see ``GenerativeFamily.draw``."""

    def some(first: int, last: int) -> Tensor:
        with using(last - first) as layout:
            images = family.draw(model, labels[first:last], seeds[first:last], layout)
        drawn = images[:, 0].float().mul(255).round().to(torch.uint8).cpu()
        update(last)
        return drawn

    with progress("Drawing images", len(labels), line="") as update:
        return torch.cat(memory.in_parts(len(labels), stride, some))
