"""CLIP with PEFT's LoRA, built from open_clip and PEFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import open_clip
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.layers import attention


def load(base: Mapping[str, Any]) -> nn.Module:
    """Return the frozen CLIP of a base: ``model``, ``pretrained``, ``image_size`` and open_clip's extra ``settings``.

    PEFT can't adapt q, k and v one by one inside ``nn.MultiheadAttention``; users swap it, as ``attention.split`` does.
    """
    clip = open_clip.create_model(
        base["model"], pretrained=base["pretrained"], force_image_size=base["image_size"], **base["settings"]
    )
    attention.split(clip)
    return clip.eval().requires_grad_(False)


@torch.no_grad()
def class_matrix(clip: nn.Module, captions: Sequence[Sequence[str]], tokenizer: Any) -> Tensor:
    """Return ``(classes, D)``: the mean embedding of each class's captions; the text tower is frozen."""
    device = clip.logit_scale.device
    rows = [clip.encode_text(tokenizer(list(each)).to(device), normalize=True).mean(0) for each in captions]
    return F.normalize(torch.stack(rows), dim=-1)


def adapt(clip: nn.Module, params: Mapping[str, Any], pattern: str) -> PeftModel:
    """Return the CLIP with a fresh adapter on every Linear whose name matches ``pattern``."""
    return get_peft_model(
        clip,
        LoraConfig(
            r=params["lora_rank"],
            lora_alpha=params["lora_alpha"],
            lora_dropout=params["lora_dropout"],
            target_modules=pattern,
        ),
    )


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the adapters."""
    return [p for p in model.parameters() if p.requires_grad]


class Scores(nn.Module):
    """Logits of images ``(N, 3, H, W)`` against fixed class embeddings."""

    def __init__(self, model: PeftModel, matrix: Tensor) -> None:
        super().__init__()
        self.model = model
        self.matrix = matrix

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, classes)``."""
        clip = self.model.base_model.model
        return clip.logit_scale.exp() * clip.encode_image(images, normalize=True).float() @ self.matrix.T
