"""Conversion of timm's vision transformers to attention with four plain Linears, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.errors import SpaceError
from lungtune.layers.attention import SplitAttention

_PARTS = ("q_proj", "k_proj", "v_proj")


class Attention(SplitAttention):
    """Self-attention with the interface of timm's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]  # timm's interface
        """Attend; ``x (N, L, width)``."""
        return super().forward(x, x, x)[0]


def split(net: nn.Module) -> None:
    """Split the fused ``qkv`` of every block, in place.

    Raises:
        SpaceError: the model's attention is of another kind.
    """
    blocks = getattr(net, "blocks", ())
    plain = [block for block in blocks if _is_plain(getattr(block, "attn", None))]
    if not blocks or len(plain) < len(blocks):
        raise SpaceError(f"model must be a vision transformer with plain attention, but got {type(net).__name__}.")
    for block in blocks:
        fused = block.attn
        parts = Attention(fused.proj.in_features, fused.num_heads, bias=fused.qkv.bias is not None)
        with torch.no_grad():
            for name, weight in zip(_PARTS, fused.qkv.weight.chunk(3), strict=True):
                getattr(parts, name).weight.copy_(weight)
            if fused.qkv.bias is not None:
                for name, bias in zip(_PARTS, fused.qkv.bias.chunk(3), strict=True):
                    getattr(parts, name).bias.copy_(bias)
        parts.out_proj = fused.proj
        block.attn = parts.train(fused.training)


def _is_plain(attention: Any) -> bool:
    absent = ("q_norm", "k_norm", "norm")
    return (
        hasattr(attention, "qkv")
        and all(isinstance(getattr(attention, name, nn.Identity()), nn.Identity) for name in absent)
        and getattr(attention, "gate", None) is None
    )


@torch.no_grad()
def merge(net: nn.Module, adapter: Mapping[str, Tensor], scale: float) -> None:
    """Add adapters, named after the split model, to the weights of a whole one, in place.

    Args:
        net: as timm builds it.
        adapter: what ``Pack.adapter`` returned.
        scale: alpha / rank.
    """
    for name, down in adapter.items():
        layer = name.removeprefix("base_model.model.net.").removesuffix(".lora_A.weight")
        if layer == name or name.endswith(".lora_B.weight"):
            continue
        delta = scale * (adapter[name.replace(".lora_A.", ".lora_B.")].double() @ down.double())
        parent, _, part = layer.rpartition(".")
        if part in _PARTS:
            weight = net.get_parameter(f"{parent}.qkv.weight").chunk(3)[_PARTS.index(part)]
        else:
            weight = net.get_parameter(layer.replace(".out_proj", ".proj") + ".weight")
        weight += delta.to(weight)
