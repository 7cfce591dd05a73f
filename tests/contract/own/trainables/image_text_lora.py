"""Image and text: two frozen towers, one Linear over both adapted by LoRA, a head."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.family import Family, LoraTarget
from lungtune.core.fields import IMAGE, TEXT
from lungtune.core.params import param
from lungtune.models import feature_head
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import numpy as np
    import torch

_WORDS, _LENGTH = 64, 8
"""Numbers of words and of tokens a text; 0 is no word."""


@dataclass(frozen=True)
class Base:
    """The frozen towers."""

    image_size: int = param(16, low=8, high=256, unit="px", help="side of the square image")


@dataclass(frozen=True)
class Params(Synthetic, Classes, Loop):
    """Hyperparameters of a trial."""

    lora_rank: int = param(4, low=1, high=16, structural=True, help="rank r of the adapter")
    lora_alpha: float = param(8.0, low=0.1, high=64.0, help="strength: the adapter is scaled by alpha / rank")
    lora_dropout: float = param(0.0, low=0.0, high=0.9, help="share of its input features dropped")


class ImageText(Family[Base, Params]):
    """Concatenated embeddings of image and report."""

    summary = "image and text, mixed by an adapted layer"
    tasks = (Classification(),)
    inputs = (IMAGE, TEXT)
    Base = Base
    Params = Params

    def check(self, base: Base) -> None:
        """No pretrained weights: the towers are initialised from a seed."""

    def miniature(self, folder: Path) -> Base:
        """See ``Family.miniature``."""
        return Base()

    def backbone(self, base: Base, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Module()
            model.image = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
            model.text = nn.Embedding(_WORDS, 16)
            model.mix = nn.Linear(32, 24)
            return model.eval()

    def tokenize(self, base: Base, texts: Sequence[str]) -> np.ndarray:
        """See ``Family.tokenize``: a hash of each word, padded with 0."""
        import numpy as np

        tokens = np.zeros((len(texts), _LENGTH), np.int64)
        for row, text in enumerate(texts):
            words = [1 + zlib.crc32(word.encode()) % (_WORDS - 1) for word in text.lower().split()[:_LENGTH]]
            tokens[row, : len(words)] = words
        return tokens

    def lora_targets(self, model: torch.nn.Module, params: Params) -> Sequence[LoraTarget]:
        """See ``Family.lora_targets``."""
        return [LoraTarget("mix", params.lora_rank, params.lora_alpha, params.lora_dropout)]

    def trainable_parameters(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: the head."""
        return feature_head.draw(24, 0, len(classes), generator)

    def features(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``: both towers."""
        import torch

        seen = (batch["text"] > 0).unsqueeze(-1)
        text = (model.text(batch["text"]) * seen).sum(1) / seen.sum(1).clamp(min=1)
        return {"both": torch.cat([model.image(batch["image"]), text], 1)}

    def outputs(self, model: torch.nn.Module, batch: Mapping[str, Any], layout: Any) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"logits": feature_head.linear(model.mix(batch["both"]).relu().float(), layout)}

    def export(
        self, base: Base, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``."""
        from safetensors.torch import save_file

        state = {f"base.{name}": tensor for name, tensor in self.backbone(base, classes).state_dict().items()}
        save_file({**state, **adapter}, folder / "model.safetensors")
        (folder / "README.md").write_text("# Image and text\n")


FAMILY = ImageText()
