"""Attention with plain Linear projections, so that q, k, v and out can be adapted separately.

``nn.MultiheadAttention`` keeps q, k and v in one matrix and calls its ``out_proj`` behind the module's back: adapters
hung on it are bypassed, or applied twice. ``split`` swaps every one inside a model; ``merge_state`` goes back.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SplitAttention(nn.Module):
    """Multi-head attention with four plain Linears; stands in for a batch-first ``nn.MultiheadAttention``.

    Args:
        width: features of a token.
        heads: attention heads; must divide ``width``.
        bias: True for projections with a bias.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=bias)
        self.k_proj = nn.Linear(width, width, bias=bias)
        self.v_proj = nn.Linear(width, width, bias=bias)
        self.out_proj = nn.Linear(width, width, bias=bias)

    @classmethod
    def of(cls, fused: nn.MultiheadAttention) -> SplitAttention:
        """Return the same function as ``fused``, with copies of its weights.

        Raises:
            ValueError: ``fused`` is not plain batch-first self-attention.
        """
        if fused.in_proj_weight is None or not fused.batch_first or fused.dropout or fused.bias_k is not None:
            raise ValueError("attention must be batch-first self-attention without dropout to be split")
        bias = fused.in_proj_bias is not None
        with torch.device("meta"):
            split = cls(fused.embed_dim, fused.num_heads, bias=bias)
        weights = (*fused.in_proj_weight.detach().chunk(3), fused.out_proj.weight.detach())
        biases = (*fused.in_proj_bias.detach().chunk(3), fused.out_proj.bias.detach()) if bias else (None,) * 4
        linears = (split.q_proj, split.k_proj, split.v_proj, split.out_proj)
        for linear, weight, shift in zip(linears, weights, biases, strict=True):
            linear.weight = nn.Parameter(weight.clone())
            if shift is not None:
                linear.bias = nn.Parameter(shift.clone())
        return split.train(fused.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend.

        Args:
            query: ``(N, L, width)``; ``L`` may be smaller than the keys' ``S`` when few outputs are needed.
            key: ``(N, S, width)``.
            value: ``(N, S, width)``.
            need_weights: must be False; here because the caller passes it.
            attn_mask: additive ``(L, S)``, or None.

        Returns:
            ``(N, L, width)`` and None, the pair ``nn.MultiheadAttention`` returns.
        """
        q, k, v = self._heads(self.q_proj(query)), self._heads(self.k_proj(key)), self._heads(self.v_proj(value))
        if attn_mask is not None:
            attn_mask = attn_mask.to(q.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def split(model: nn.Module) -> list[str]:
    """Swap every ``nn.MultiheadAttention`` that sits as ``attn`` in a residual block; return their names.

    Poolers (attention with a learnt query) keep theirs: they are not self-attention.
    """
    modules = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention) and name.rpartition(".")[2] == "attn" and ".resblocks." in name
    ]
    for name in modules:
        parent, _, child = name.rpartition(".")
        fused: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), child, SplitAttention.of(fused))
    return modules


def merge_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with every split attention fused again, under the names ``nn.MultiheadAttention`` uses."""
    fused = {}
    for name, tensor in state.items():
        head, _, kind = name.rpartition(".")
        owner, _, part = head.rpartition(".")
        if part == "q_proj":
            parts = [state[f"{owner}.{p}.{kind}"] for p in ("q_proj", "k_proj", "v_proj")]
            fused[f"{owner}.in_proj_{kind}"] = torch.cat(parts)
        elif part not in ("k_proj", "v_proj"):
            fused[name] = tensor
    return fused
