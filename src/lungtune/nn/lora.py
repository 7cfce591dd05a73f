"""Low-rank adapters of many trials on one frozen Linear.

LoRA (Hu et al., arXiv 2106.09685, eq. 3): ``y = W x + b + alpha / r * B A dropout(x)``. Each slot of the pack has its
own A, B, rank, alpha and dropout; all are applied to their own rows by one batched product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.core.trainable import LoraTarget
from lungtune.errors import SpaceError
from lungtune.nn.slots import Slots, Stage


@dataclass(frozen=True)
class Adapter:
    """One trial's settings on one Linear: rank, scale ``alpha / rank``, dropout probability."""

    rank: int
    scale: float
    dropout: float


class SlotLora(nn.Module):
    """A frozen Linear with one LoRA adapter for each slot that targets it.

    ``A (K, r_max, in)`` and ``B (K, out, r_max)`` are views into the pack's bank, set by ``bind``. A smaller rank is
    padded with zeros, which get no gradient (dA is proportional to B and dB to A) and so stay zero; slots that do not
    target this layer are all zero and add nothing.

    Args:
        linear: the Linear to adapt.
        stage: where to find the layout of the passing batch.
    """

    def __init__(self, linear: nn.Linear, stage: Stage) -> None:
        super().__init__()
        self.linear = linear
        self.stage = stage
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        self._dropout: tuple[float, ...] = ()
        self._scales: dict[bool, Tensor] = {}

    def bind(self, a: nn.Parameter, b: nn.Parameter, adapters: Sequence[Adapter | None]) -> None:
        """Use these stacked weights from now on.

        Args:
            a: ``(K, r_max, in)``.
            b: ``(K, out, r_max)``.
            adapters: one for each slot; None where the slot does not target this layer.
        """
        self.lora_a, self.lora_b = a, b
        self._dropout = tuple(x.dropout if x else 0.0 for x in adapters)
        scales = torch.tensor([x.scale if x else 0.0 for x in adapters]).view(-1, 1, 1)
        kept = torch.tensor([1.0 - p for p in self._dropout]).view(-1, 1, 1)
        # Dropout's 1 / (1 - p) rides on the scale: the mask then only has to zero features.
        self._scales = {True: (scales / kept).to(a.device), False: scales.to(a.device)}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, ..., in)`` to ``(N, ..., out)``, each row with its own slot's adapter."""
        base = F.linear(x, self.linear.weight, self.linear.bias)
        slots = self.stage.slots
        if slots is None or self.lora_a is None:
            return base
        a, b = slots.pick(self.lora_a), slots.pick(self.lora_b)
        scale = slots.pick(self._scales[slots.training])
        parts = []
        for group in slots.groups:
            rows = x[group.rows].reshape(group.size, -1, x.shape[-1])
            if slots.training:
                rows = self._drop(rows, slots, group.slots)
            low = torch.bmm(rows, a[group.slots].transpose(1, 2)) * scale[group.slots].to(x.dtype)
            part = base[group.rows]
            high = torch.baddbmm(part.reshape(group.size, -1, base.shape[-1]), low, b[group.slots].transpose(1, 2))
            parts.append(high.view(part.shape))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _drop(self, rows: Tensor, slots: Slots, which: slice) -> Tensor:
        """Zero features of ``rows (k, n, in)``, each slot with its own probability and random numbers."""
        chances = [self._dropout[place] for place in slots.places[which]]
        if not any(chances):
            return rows
        return rows.masked_fill(dropped(rows.shape, chances, slots.generators[which], rows.device), 0.0)


def dropped(
    shape: Sequence[int], chances: Sequence[float], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Return a bool ``shape (k, n, in)`` mask of what to drop, slot by slot.

    Sixteen random bits decide an element, so probabilities are rounded to 1/65536; a 64-bit draw serves four, which
    makes a mask about as cheap as reading its input. Slots with probability 0 draw nothing.
    """
    words = -(-math.prod(shape[1:]) // 4)
    bits = torch.zeros(shape[0], words, dtype=torch.int64, device=device)
    for row, chance, generator in zip(bits, chances, generators, strict=True):
        if chance:
            row.random_(-(2**63), None, generator=generator)
    limits = [round(p * 65536) - 32768 for p in chances]
    limit = torch.tensor(limits, dtype=torch.int16).to(device, non_blocking=True).unsqueeze(1)
    flat = bits.view(torch.int16)[:, : math.prod(shape[1:])] < limit
    return flat.view(tuple(shape))


def match(model: nn.Module, targets: Sequence[LoraTarget]) -> dict[str, Adapter]:
    """Return the adapter of every Linear that the targets name.

    Raises:
        SpaceError: a pattern matches no Linear, or two patterns match the same one.
    """
    names = linears(model)
    found: dict[str, Adapter] = {}
    for target in targets:
        hits = [name for name in names if re.fullmatch(target.pattern, name)]
        if not hits:
            kinds = sorted({re.sub(r"\d+", "N", name) for name in names})
            raise SpaceError(
                f"LoRA target '{target.pattern}' must match at least one layer, but matches none. "
                f"Layers of this model: {', '.join(kinds)}."
            )
        for name in hits:
            if name in found:
                raise SpaceError(f"Layer '{name}' must be matched by one LoRA target only, but got two.")
            found[name] = Adapter(target.rank, target.alpha / target.rank, target.dropout)
    return found


def linears(model: nn.Module) -> list[str]:
    """Return the names of all Linears of a model, adapted or not, in the model's order."""
    inside = {f"{name}.linear" for name, module in model.named_modules() if isinstance(module, SlotLora)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, SlotLora)) and name not in inside
    ]


def attach(model: nn.Module, name: str, stage: Stage) -> SlotLora:
    """Wrap the Linear called ``name``; one that is wrapped already is returned as it is."""
    module = model.get_submodule(name)
    if isinstance(module, SlotLora):
        return module
    wrapped = SlotLora(module, stage)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, wrapped)
    return wrapped


def detach(model: nn.Module, name: str) -> None:
    """Put the plain Linear back in the place of its wrapper."""
    module = model.get_submodule(name)
    if isinstance(module, SlotLora):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.linear)


def initial(linear: nn.Linear, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A ``(rank, in)``, Kaiming-uniform with a = sqrt(5) as PEFT, and B ``(out, rank)``, zero; on the CPU."""
    bound = 1.0 / math.sqrt(linear.in_features)
    a = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
    return a, torch.zeros(linear.out_features, rank)


def plain(model: nn.Module, name: str) -> nn.Linear:
    """Return the frozen Linear called ``name``, wrapped or not."""
    module = model.get_submodule(name)
    return module.linear if isinstance(module, SlotLora) else module
