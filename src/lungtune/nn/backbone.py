"""The frozen model of a pack: on its device, at its precision, with what its layers need to know of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lungtune.core.trainable import Trainable
from lungtune.nn.slots import Slots, Stage


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
        self.precision = precision or ("bf16" if device.type == "cuda" else "fp32")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, but got {precision!r}")
        self.model = trainable.backbone(base, classes).requires_grad_(False).eval().to(device)
        # Else autocast would cast every frozen matrix in every step. One that trains starts from it, and stays whole.
        if self.precision == "bf16" and trainable.packs:
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
        self.stage = Stage()

    @contextmanager
    def showing(self, slots: Slots | None) -> Iterator[None]:
        """Run the model at its precision inside the ``with`` block; its adapters see ``slots``, None: are off."""
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self.stage.showing(slots), mixed:
            yield
