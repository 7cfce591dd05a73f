"""Low-rank adapters of many trials on one frozen Linear.

LoRA (Hu et al., arXiv 2106.09685, eq. 3): ``y = W x + b + alpha / r * B A dropout(x)``. Each slot of the pack has its
own A, B, rank, alpha and dropout; all are applied to their own rows by one batched product.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.core.family import LoraTarget
from lungtune.errors import SpaceError
from lungtune.layers.layout import BatchLayout, Group, LayoutContext

PARTS = ("lora_A", "lora_B")
"""Names of an adapter's two parameters, after its layer's."""


@dataclass(frozen=True)
class Adapter:
    """One trial's settings on one Linear: rank, scale ``alpha / rank``, dropout probability."""

    rank: int
    scale: float
    dropout: float


class SlotLora(nn.Module):
    """A frozen Linear with one LoRA adapter for each slot that targets it.

    ``A (K, r_max, in)`` and ``B (K, out, r_max)`` are views into the pack's stack, set by ``bind``. A smaller rank is
    padded with zeros, which get no gradient (dA is proportional to B and dB to A) and so stay zero; slots that do not
    target this layer are all zero and add nothing.

    Args:
        linear: the Linear to adapt.
        context: where to find the layout of the passing batch.
    """

    def __init__(self, linear: nn.Linear, context: LayoutContext) -> None:
        super().__init__()
        self.linear = linear
        self.context = context
        self.lora_a: nn.Parameter | None = None
        self.lora_b: nn.Parameter | None = None
        self._dropout: tuple[float, ...] = ()
        self._scales: dict[bool, Tensor] = {}

    def _bound(self) -> tuple[nn.Parameter, nn.Parameter]:
        a, b = self.lora_a, self.lora_b
        assert a is not None, "a pack binds its layers before it runs them"
        assert b is not None
        return a, b

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
        # Dropout's 1 / (1 - p) is folded into the scale: the mask then only has to zero features.
        self._scales = {True: (scales / kept).to(a.device), False: scales.to(a.device)}

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, ..., in)`` to ``(N, ..., out)``, each row with its own slot's adapter."""
        layout, weight, bias = self.context.layout, self.linear.weight, self.linear.bias
        if layout is None or self.lora_a is None:
            return F.linear(x, weight, bias)
        mixed = torch.is_autocast_enabled(x.device.type)
        if len(layout) == 1 and not layout.training and not mixed:  # bf16 would round the sum, not the summands
            return F.linear(x, self._merged(layout), bias)
        keep = layout.kept(x, [self._dropout[place] for place in layout.places])
        a, b = self._bound()
        tensors = [x, weight, bias, layout.pick(a), layout.pick(b), keep]
        if mixed:
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [None if t is None else t.to(dtype) for t in tensors]
        return AdaptedLinear.apply(*tensors, layout.pick(self._scales[layout.training]), layout.groups)

    def _merged(self, layout: BatchLayout) -> Tensor:
        """Return ``W + alpha / r * B A`` of the only slot there is; computed once for as long as weights stay."""
        if self not in layout.memo:
            place = layout.places[0]
            a, b = self._bound()
            layout.memo[self] = torch.addmm(self.linear.weight, self._scales[False][place] * b[place], a[place])
        return layout.memo[self]


class AdaptedLinear(torch.autograd.Function):
    """``y = x W' + bias + scale * (x * keep) A' B'`` with each row's own A and B, as one node of the graph.

    Against the same sum in plain operations this saves, for every layer, the copies of slicing and adding, and the
    separate sums of two gradients for x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        keep: Tensor | None,
        scale: Tensor,
        groups: tuple[Group, ...],
    ) -> Tensor:
        """Compute y.

        Args:
            ctx: autograd's.
            x: ``(N, ..., in)``.
            weight: frozen ``(out, in)``.
            bias: frozen ``(out,)`` or None.
            a: ``(K, r, in)``.
            b: ``(K, out, r)``.
            keep: zeros and ones, as many as ``x`` has elements, or None.
            scale: float32 ``(K, 1, 1)``, also in mixed precision: bf16 would round it by up to 0.4 %.
            groups: rows and slots of each batched product.
        """
        y = F.linear(x, weight, bias)
        seen, low = [], []
        for group in groups:
            part, out, own_a, own_b, own_scale, mask = _cut(groups, group, (x, y), (a, b, scale), keep)
            if mask is not None:
                part = part * mask
            h = torch.bmm(part, own_a.transpose(1, 2)).mul_(own_scale)
            out.baddbmm_(h, own_b.transpose(1, 2))
            seen.append(part)
            low.append(h)
        ctx.groups = groups
        ctx.save_for_backward(weight, a, b, scale, keep, *seen, *low)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, a and b."""
        weight, a, b, scale, keep, *saved = ctx.saved_tensors
        groups = ctx.groups
        dy = dy.contiguous()
        dx = dy.new_empty(*dy.shape[:-1], a.shape[-1])
        da, db = torch.empty_like(a), torch.empty_like(b)
        for group, part, h in zip(groups, saved[: len(groups)], saved[len(groups) :], strict=True):
            up, back, *own, mask = _cut(groups, group, (dy, dx), (a, b, scale, da, db), keep)
            own_a, own_b, own_scale, own_da, own_db = own
            torch.bmm(up.transpose(1, 2), h, out=own_db)
            dh = torch.bmm(up, own_b).mul_(own_scale)
            torch.bmm(dh.transpose(1, 2), part, out=own_da)
            if ctx.needs_input_grad[0]:
                torch.bmm(dh, own_a, out=back)
                if mask is not None:
                    back.mul_(mask)
        if not ctx.needs_input_grad[0]:
            return None, None, None, da, db, None, None, None
        dx.view(-1, dx.shape[-1]).addmm_(dy.view(-1, dy.shape[-1]), weight)
        return dx, None, None, da, db, None, None, None


def _cut(
    groups: tuple[Group, ...],
    group: Group,
    batches: tuple[Tensor, ...],
    stacks: tuple[Tensor, ...],
    keep: Tensor | None,
) -> list[Any]:
    """Return a group's part of everything: batches as ``(slots, rows and tokens, features)``, stacks by slot.

    Args:
        groups: all groups; with one there is nothing to cut, and views cost time too.
        group: the one wanted.
        batches: two ``(N, ..., features)``, rows of all groups.
        stacks: tensors ``(K, ...)``.
        keep: mask with an element for each of the batch that has the adapters' input features, or None.
    """
    if len(groups) > 1:
        if keep is not None:
            each = keep.numel() // groups[-1].rows.stop
            keep = keep[group.rows.start * each : group.rows.stop * each]
        batches = tuple(t[group.rows] for t in batches)
        stacks = tuple(t[group.slots] for t in stacks)
    shaped = [t.reshape(group.size, -1, t.shape[-1]) for t in batches]
    mask = None if keep is None else keep.view(group.size, -1, stacks[0].shape[-1])
    return [*shaped, *stacks, mask]


def match(model: nn.Module, targets: Sequence[LoraTarget]) -> dict[str, Adapter]:
    """Return the adapter of every Linear that the targets name.

    Raises:
        SpaceError: a pattern matches no Linear, or two patterns match the same one.
    """
    names = linears(model)
    adapters: dict[str, Adapter] = {}
    for target in targets:
        hits = [name for name in names if re.fullmatch(target.pattern, name)]
        if not hits:
            kinds = sorted({re.sub(r"\d+", "N", name) for name in names})
            raise SpaceError(
                f"LoRA target '{target.pattern}' must match at least one layer, but matches none. "
                f"Layers of this model: {', '.join(kinds)}."
            )
        for name in hits:
            if name in adapters:
                raise SpaceError(f"Layer '{name}' must be matched by one LoRA target only, but got two.")
            adapters[name] = Adapter(target.rank, target.alpha / target.rank, target.dropout)
    return adapters


def linears(model: nn.Module) -> list[str]:
    """Return the names of all Linears of a model, adapted or not, in the model's order."""
    inside = {f"{name}.linear" for name, module in model.named_modules() if isinstance(module, SlotLora)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, SlotLora)) and name not in inside
    ]


def install(
    model: nn.Module,
    adapters: Sequence[Mapping[str, Adapter]],
    parameters: Mapping[str, nn.Parameter],
    context: LayoutContext,
) -> None:
    """Bind these trials' stacked weights to the model's Linears; wrap those adapted by any, unwrap the others.

    Args:
        model: the backbone.
        adapters: what each trial adapts, by name of the layer, in the order of the stack.
        parameters: stacked A and B ``(K, *shape)`` by ``<layer>.<part>``.
        context: where the layers find the layout of the batch.
    """
    for name in linears(model):
        each = [mine.get(name) for mine in adapters]
        if any(each):
            a, b = (parameters[f"{name}.{part}"] for part in PARTS)
            attach(model, name, context).bind(a, b, each)
        else:
            detach(model, name)


def attach(model: nn.Module, name: str, context: LayoutContext) -> SlotLora:
    """Wrap the Linear called ``name``; one that is wrapped already is returned as it is."""
    module = model.get_submodule(name)
    if isinstance(module, SlotLora):
        return module
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{name} must be a Linear, but is a {type(module).__name__}")
    wrapped = SlotLora(module, context)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, wrapped)
    return wrapped


def detach(model: nn.Module, name: str) -> None:
    """Replace the wrapper by its plain Linear."""
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
    linear = module.linear if isinstance(module, SlotLora) else module
    assert isinstance(linear, nn.Linear)
    return linear
