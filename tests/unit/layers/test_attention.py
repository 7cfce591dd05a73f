"""Split attention equals fused attention and converts back."""

from __future__ import annotations

import copy

import open_clip
import pytest
import torch
from torch import nn

from lungtune.layers import attention

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def clip() -> nn.Module:
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)  # a fresh model's biases are zero and would hide a mistake
    return model


def test_split_clip_embeds_images_and_masked_text_as_before(clip: nn.Module) -> None:
    split = copy.deepcopy(clip)
    names = attention.split(split)
    assert len(names) == 4
    images, tokens = torch.rand(3, 3, 16, 16), torch.randint(0, 64, (3, 12))
    with torch.no_grad():
        torch.testing.assert_close(split.encode_image(images), clip.encode_image(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(split.encode_text(tokens), clip.encode_text(tokens), atol=1e-5, rtol=0)
        masked = clip.encode_text(tokens)
        clip.attn_mask = torch.zeros_like(clip.attn_mask)
        assert (clip.encode_text(tokens) - masked).abs().max() > 1e-3  # the causal mask did act


def test_gradient_to_the_input_is_the_fused_one(clip: nn.Module) -> None:
    fused = clip.visual.transformer.resblocks[0].attn
    split = attention.SplitAttention.of(fused)
    x = torch.randn(2, 5, 32, requires_grad=True)
    y = torch.randn(2, 5, 32)
    (a,) = torch.autograd.grad((fused(x, x, x, need_weights=False)[0] * y).sum(), x)
    (b,) = torch.autograd.grad((split(x, x, x)[0] * y).sum(), x)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_merged_state_loads_into_the_original(clip: nn.Module) -> None:
    split = copy.deepcopy(clip)
    attention.split(split)
    before = clip.state_dict()
    merged = attention.merge_state(split.state_dict())
    assert merged.keys() == before.keys()
    assert all(torch.equal(merged[name], before[name]) for name in before)


def test_attention_with_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="batch-first self-attention without dropout"):
        attention.SplitAttention.of(nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True))
