"""The frozen model of a pack: on its device, at its precision, with what its layers need to know of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.core.family import Trainable
from lungtune.engine import memory
from lungtune.layers.layout import BatchLayout, LayoutContext

_AT_ONCE = 256
"""Most images whose features are computed together: a head's batch may be too large for what is below it."""
_PIXELS = 1 << 23
"""Most pixels of these: an autoencoder of images of 768 px holds a GB for each."""


class Backbone:
    """A family's backbone.

    Args:
        trainable: the family.
        base: its ``Base``.
        classes: class names.
        device: where it runs.
        precision: ``fp32`` or ``bf16`` (autocast). Default: bf16 on CUDA, fp32 elsewhere.

    Raises:
        WeightsError: the pretrained weights cannot be had.
    """

    def __init__(
        self, trainable: Trainable, base: Any, classes: Sequence[str], device: torch.device, precision: str | None
    ) -> None:
        self.device = device
        self._trainable = trainable
        self.precision = precision or ("bf16" if device.type == "cuda" else "fp32")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, but got {precision!r}")
        self.model = trainable.backbone(base, classes).requires_grad_(False).eval().to(device)
        # Else autocast would cast every frozen matrix in every step. One that trains starts from it, and stays whole.
        if self.precision == "bf16" and trainable.packs:
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
        self.stage = LayoutContext()

    @contextmanager
    def showing(self, slots: BatchLayout | None) -> Iterator[None]:
        """Run the model at its precision inside the ``with`` block; its adapters see ``slots``, None: are off."""
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self.stage.showing(slots), mixed:
            yield

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the family's ``features`` of images ``(N, 1, H, W)`` in [0, 1], on the device."""
        with self.showing(None):
            images = images.to(self.device)
            stride = max(1, min(_AT_ONCE, _PIXELS // images[0].numel()))
            some = lambda first, last: self._trainable.features(self.model, images[first:last])  # noqa: E731
            parts = memory.in_parts(len(images), stride, some)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
