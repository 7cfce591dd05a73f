"""Conversion of timm's vision transformers to attention with four plain Linears, and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.errors import SpaceError
from lungtune.layers import parity
from lungtune.layers.attention import SplitAttention
from lungtune.models import timm_models

_PARTS = ("q_proj", "k_proj", "v_proj")


class Attention(SplitAttention):
    """Self-attention with the interface of timm's."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]  # timm's interface
        """Attend; ``x (N, L, width)``.

        Raises:
            ValueError: a further argument is set, such as a mask or position codes, which have no place here.
        """
        if any(_is_set(value) for value in (*args, *kwargs.values())):
            raise ValueError(f"split attention takes tokens alone, but got {[*args]} and {kwargs}")
        return super().forward(x, x, x)[0]


@torch.no_grad()
def split(built: timm_models.Built, image_size: int) -> None:
    """Split the fused ``qkv`` of every block, in place; the output on a random image must stay as it was.

    Args:
        built: on the CPU, in eval mode, float32.
        image_size: px.

    Raises:
        SpaceError: the model's attention is of another kind.
    """
    net: Any = built.model
    blocks = getattr(net, "blocks", ())
    attentions = [getattr(block, "attn", None) for block in blocks]
    if not attentions or not all(map(_is_fused, attentions)):
        raise _refusal(built, f"{type(net).__name__} has blocks without a fused qkv as wide as its tokens")
    images = parity.batch(len(built.mean), image_size)
    wanted, arguments = _observed(net, attentions, images)
    parts = dict.fromkeys(name for attention in attentions for name in _extra(attention))
    extra = [f"{verb} {', '.join(names)}" for verb, names in (("has", parts), ("takes", arguments)) if names]
    if extra:
        raise _refusal(built, f"its attention also {' and '.join(extra)}")
    for block in blocks:
        block.attn = _parts(block.attn)
    if problem := parity.sentence(wanted, net.forward_features(images)):
        raise _refusal(built, f"with its q, k and v apart, its output {problem}")


def _parts(fused: Any) -> Attention:
    """Return the same attention with four Linears; ``proj`` is shared, q, k and v are copies."""
    parts = Attention(fused.proj.in_features, fused.num_heads, bias=fused.qkv.bias is not None)
    for name, weight in zip(_PARTS, fused.qkv.weight.chunk(3), strict=True):
        getattr(parts, name).weight.copy_(weight)
    if fused.qkv.bias is not None:
        for name, bias in zip(_PARTS, fused.qkv.bias.chunk(3), strict=True):
            getattr(parts, name).bias.copy_(bias)
    parts.out_proj = fused.proj
    return parts.train(fused.training)


def _refusal(built: timm_models.Built, why: str) -> SpaceError:
    return SpaceError(f"model must be a vision transformer with plain attention, but got {built.architecture}: {why}.")


def _is_fused(attention: Any) -> bool:
    """True if an attention has one Linear for q, k and v, each as wide as the tokens."""
    qkv, proj = getattr(attention, "qkv", None), getattr(attention, "proj", None)
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear):
        return False
    return qkv.out_features == 3 * qkv.in_features and proj.in_features == proj.out_features == qkv.in_features


def _extra(attention: Any) -> list[str]:
    """Return what an attention computes with besides ``qkv`` and ``proj``: layers, parameters, tables."""
    inert = (nn.Identity, nn.Dropout)
    layers = [n for n, child in attention.named_children() if n not in ("qkv", "proj") and not isinstance(child, inert)]
    tensors = [*attention.named_parameters(recurse=False), *attention.named_buffers(recurse=False)]
    return layers + [name for name, _ in tensors]


def _observed(net: Any, attentions: Sequence[Any], images: Tensor) -> tuple[Tensor, list[str]]:
    """Return the net's features, and the names of what its attention got besides the tokens."""
    given: dict[str, None] = {}

    def note(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, *rest = inspect.signature(attention.forward).bind(*args, **kwargs).arguments.items()
        given.update(dict.fromkeys(name for name, value in rest if _is_set(value)))

    hooks = [each.register_forward_pre_hook(note, with_kwargs=True) for each in attentions]
    features = net.forward_features(images)
    for hook in hooks:
        hook.remove()
    return features, [*given]


def _is_set(value: Any) -> bool:
    return value is not None and value is not False


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
