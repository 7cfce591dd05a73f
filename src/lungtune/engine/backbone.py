"""Frozen model of a pack with its device, precision and batch layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.core.contract import wrong
from lungtune.core.family import Family
from lungtune.engine import memory, returned
from lungtune.inputs import computing
from lungtune.layers.layout import BatchLayout, LayoutContext


class Backbone:
    """A family's backbone.

    Args:
        family: the family.
        base: its ``Base``.
        classes: class names.
        device: where it runs.
        precision: ``fp32`` or ``bf16`` (autocast). Default: bf16 on CUDA, fp32 elsewhere.

    Raises:
        WeightsError: the pretrained weights are not available.
        ContractError: ``Family.backbone`` returns no module.
    """

    def __init__(
        self, family: Family[Any, Any], base: Any, classes: Sequence[str], device: torch.device, precision: str | None
    ) -> None:
        self.device = device
        self._family = family
        self.precision = precision or ("bf16" if device.type == "cuda" else "fp32")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, but got {precision!r}")
        model = family.backbone(base, classes)
        if not isinstance(model, nn.Module):
            raise wrong(family.backbone, "a torch.nn.Module", returned.shown(model))
        self.model = model.requires_grad_(False).eval().to(device)
        # Else autocast would cast every frozen matrix in every step. Matrices that train must stay float32.
        if self.precision == "bf16" and family.packs:
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    module.to(torch.bfloat16)
        self.context = LayoutContext()

    @contextmanager
    def using(self, layout: BatchLayout | None) -> Iterator[None]:
        """Run the model at its precision; its adapters see ``layout`` inside the block, None switches them off."""
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with self.context.using(layout), mixed:
            yield

    @torch.no_grad()
    def features(self, values: Mapping[str, Tensor], together: int = 0) -> Mapping[str, Tensor]:
        """Return the family's ``features`` of a batch of inputs, on the device; several threads may ask at a time.

        Args:
            values: the inputs.
            together: cases that pass the model at a time; 0: as many as usual.

        Raises:
            ContractError: they are no mapping of names to tensors with a row for each case.
        """
        with self.using(None):
            values = {name: value.to(self.device) for name, value in values.items()}
            count, size = len(next(iter(values.values()))), sum(value[0].numel() for value in values.values())
            stride = together or computing.at_once(size, self.device)

            def some(first: int, last: int) -> Mapping[str, Tensor]:
                features = self._family.features(self.model, {name: v[first:last] for name, v in values.items()})
                returned.check_rows(self._family.features, features, last - first)
                return features

            parts = memory.in_parts(count, stride, some)
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
