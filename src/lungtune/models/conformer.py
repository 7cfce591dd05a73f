"""Vision Conformer: a convolutional and a transformer branch that exchange features in every block.

After Peng et al., "Conformer: Local Features Coupling Global Representations for Visual Recognition" (ICCV 2021,
arXiv 2105.03889). Parts bear the names of the published checkpoints, so that those load (``load``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.errors import WeightsError, did_you_mean

SIZES: dict[str, dict[str, int]] = {
    "conformer_micro": {"base": 16, "channel_ratio": 1, "width": 96, "heads": 3, "depth": 6},
    "conformer_tiny": {"channel_ratio": 1, "width": 384, "heads": 6},
    "conformer_small": {"channel_ratio": 4, "width": 384, "heads": 6},
    "conformer_base": {"channel_ratio": 6, "width": 576, "heads": 9},
}
"""Name -> arguments of ``Conformer``: the three published ones, and one for a CPU."""

HEADS = ("conv_cls_head", "trans_cls_head")
_EPS = 1e-6


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with a shortcut; transformer features are added before the 3x3."""

    def __init__(self, inside: int, outside: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        middle = outside // 4
        self.conv1 = nn.Conv2d(inside, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle, eps=_EPS)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle, eps=_EPS)
        self.conv3 = nn.Conv2d(middle, outside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outside, eps=_EPS)
        self.project = project
        if project:
            self.residual_conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.residual_bn = nn.BatchNorm2d(outside, eps=_EPS)

    def forward(self, x: Tensor, coupled: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the block's output and its narrow map behind the 3x3 convolution."""
        middle = F.relu(self.bn1(self.conv1(x)))
        if coupled is not None:
            middle = middle + coupled
        middle = F.relu(self.bn2(self.conv2(middle)))
        shortcut = self.residual_bn(self.residual_conv(x)) if self.project else x
        return F.relu(self.bn3(self.conv3(middle)) + shortcut), middle


class Attention(nn.Module):
    """Multi-head self-attention with queries, keys and values from one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many tokens ``(N, L, width)`` as came."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """The two layers behind the attention."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Work on each token by itself."""
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """A pre-norm transformer block; ``drop_path`` is the chance that an image skips either half in training."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(width)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """Return as many tokens ``(N, L, width)`` as came."""
        x = x + self._some(self.attn(self.norm1(x)))
        return x + self._some(self.mlp(self.norm2(x)))

    def _some(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return x
        kept = torch.rand(len(x), 1, 1, device=x.device) >= self.drop_path
        return x * (kept.to(x.dtype) / (1 - self.drop_path))


class Squeeze(nn.Module):
    """From the convolutional branch to tokens, one for each cell of the grid."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(channels, width, 1)
        self.ln = nn.LayerNorm(width, eps=_EPS)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens ``(N, L, width)``."""
        cells = F.avg_pool2d(self.conv_project(x), self.stride)
        return F.gelu(self.ln(cells.flatten(2).transpose(1, 2)))


class Expand(nn.Module):
    """From tokens back to a map for the convolutional branch."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv_project = nn.Conv2d(width, channels, 1)
        self.bn = nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Return ``(N, channels, *size)`` from tokens ``(N, L, width)`` of a ``grid`` with L cells."""
        x = tokens.transpose(1, 2).unflatten(2, grid)
        return F.interpolate(F.relu(self.bn(self.conv_project(x))), size=size)


class CoupledBlock(nn.Module):
    """One step of both branches: bottleneck, its map to the tokens, transformer block, its tokens to a bottleneck."""

    def __init__(
        self, inside: int, outside: int, width: int, heads: int, fcu: int, drop_path: float, first: bool, last: bool
    ) -> None:
        super().__init__()
        self.cnn_block = Bottleneck(inside, outside, 2 if first else 1, first)
        self.fusion_block = Bottleneck(outside, outside, 2 if last else 1, last)
        self.squeeze_block = Squeeze(outside // 4, width, fcu)
        self.expand_block = Expand(width, outside // 4)
        self.trans_block = TransformerBlock(width, heads, drop_path)
        self.fcu = fcu

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next map ``(N, outside, H, W)`` and tokens ``(N, 1 + L, width)``."""
        x, middle = self.cnn_block(x)
        # The class token is added to itself, as published; the checkpoints rely on it.
        seen = torch.cat([tokens[:, :1], self.squeeze_block(middle)], 1)
        tokens = self.trans_block(seen + tokens)
        high, wide = middle.shape[-2:]
        coupled = self.expand_block(tokens[:, 1:], (high // self.fcu, wide // self.fcu), (high, wide))
        return self.fusion_block(x, coupled)[0], tokens


class Conformer(nn.Module):
    """A classifier of images whose sides are multiples of 32 px (``stride``); there are no positional embeddings.

    Args:
        in_chans: channels of an image.
        classes: outputs of each head; 0 for none, then ``forward`` returns what the heads would see.
        patch: side of a token's cell, px: a multiple of 16.
        base: channels of the stem; those of the stages are 1, 2 and 4 times ``base * channel_ratio``.
        channel_ratio: see ``base``.
        width: size of a token.
        heads: of the attention; must divide the width.
        depth: blocks, a multiple of 3: as many in each stage.
        drop_path: chance of the last transformer block to be skipped in training; falls linearly to zero at the first.
    """

    conv_cls_head: nn.Module
    trans_cls_head: nn.Module

    def __init__(
        self,
        in_chans: int = 3,
        classes: int = 1000,
        *,
        patch: int = 16,
        base: int = 64,
        channel_ratio: int,
        width: int,
        heads: int,
        depth: int = 12,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value, factor in (("patch", patch, 16), ("depth", depth, 3), ("width", width, heads)):
            if value % factor:
                raise ValueError(f"{name} must be a multiple of {factor}, but got {value}.")
        context, each = base * channel_ratio, depth // 3
        drops = [drop_path * i / (depth - 1) for i in range(depth)]
        self.conv1 = nn.Conv2d(in_chans, base, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.conv_1 = Bottleneck(base, context, project=True)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.trans_patch_conv = nn.Conv2d(base, width, patch // 4, patch // 4)
        self.trans_1 = TransformerBlock(width, heads, drops[0])
        blocks, inside = [], context
        for i in range(1, depth):
            level = i // each
            outside, first = context << level, level > 0 and i % each == 0
            last = i == depth - 1
            blocks.append(CoupledBlock(inside, outside, width, heads, patch // 4 >> level, drops[i], first, last))
            inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.trans_norm = nn.LayerNorm(width)
        self.widths = (inside, width)
        self.stride = math.lcm(32, patch)
        for name, size in zip(HEADS, self.widths, strict=True):
            setattr(self, name, nn.Linear(size, classes) if classes else nn.Identity())
        self.apply(_draw)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def reset_heads(self, classes: int, generator: torch.Generator | None = None) -> None:
        """Reinitialise both heads for ``classes`` classes; all randomness comes from ``generator``."""
        for name, size in zip(HEADS, self.widths, strict=True):
            head: nn.Module = nn.Identity()
            if classes:
                head = nn.utils.skip_init(nn.Linear, size, classes, device=self.cls_token.device)
                assert isinstance(head, nn.Linear)
                nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
                nn.init.zeros_(head.bias)
            setattr(self, name, head)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last map ``(N, C, H / 32, W / 32)`` and the tokens ``(N, 1 + L, width)``, the class token first.

        Raises:
            ValueError: a side of the images is no multiple of 32.
        """
        high, wide = images.shape[-2:]
        if high % self.stride or wide % self.stride:
            raise ValueError(f"image_size must be a multiple of {self.stride} px, but got {high}x{wide}.")
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        x = self.conv_1(stem)[0]
        tokens = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
        tokens = self.trans_1(torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1))
        for block in self.blocks:
            x, tokens = block(x, tokens)
        return x, self.trans_norm(tokens)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits ``(N, classes)`` of the convolutional and of the transformer branch.

        The published loss is the mean of their cross-entropies, the published prediction their sum.
        """
        x, tokens = self.features(images)
        return self.conv_cls_head(x.mean((2, 3))), self.trans_cls_head(tokens[:, 0])


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def known(name: str) -> None:
    """Verify that there is a Conformer of that name.

    Raises:
        WeightsError: there is none.
    """
    if name not in SIZES:
        raise WeightsError(f"model '{name}' is not a Conformer of ours.{did_you_mean(name, SIZES)}")


def conformer(name: str, in_chans: int = 3, classes: int = 1000, **settings: Any) -> Conformer:
    """Build one of ``SIZES``; ``settings`` override its arguments, ``known`` its errors."""
    known(name)
    return Conformer(in_chans, classes, **SIZES[name] | settings)


def load(model: Conformer, state: Mapping[str, Tensor]) -> None:
    """Load weights under our names or those of the published checkpoints (``conv_trans_2.``: our ``blocks.0.``).

    Colour weights for a grey image are summed, grey ones for a colour image spread evenly; heads of another number of
    classes are left as they are drawn.

    Raises:
        RuntimeError: other weights are missing, unknown or of another shape.
    """
    named = {re.sub(r"^conv_trans_(\d+)\.", lambda m: f"blocks.{int(m[1]) - 2}.", key): v for key, v in state.items()}
    stem, channels = named.get("conv1.weight"), model.conv1.in_channels
    if stem is not None and stem.shape[1] != channels:
        named["conv1.weight"] = stem.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
    heads = {key: value for key, value in model.state_dict().items() if key.startswith(HEADS)}
    fitting = {key: named[key] for key, value in heads.items() if key in named and named[key].shape == value.shape}
    model.load_state_dict({key: v for key, v in named.items() if not key.startswith(HEADS)} | heads | fitting)
