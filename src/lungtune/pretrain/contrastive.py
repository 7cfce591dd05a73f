"""Pretraining a CLIP: one contrastive loss, first between paraphrases, then between pictures and captions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lungtune.data.phantom.captions import FINDINGS
from lungtune.pretrain.corpus import MEAN, STD, Corpus, augment
from lungtune.pretrain.patches import whiten
from lungtune.pretrain.recipe import Recipe, dense_loss, descend, half, set_lr


@dataclass(frozen=True)
class Contrastive(Recipe):
    """A CLIP trained on captions.

    Attributes:
        model: open_clip's model configuration.
        text_steps: steps in which only the text tower is trained, to equal embeddings of paraphrases (captions: twice
            as many as images a step); then the image tower is trained to the captions' embeddings.
        text_lr: peak learning rate of these steps.
        temperature: fixed softmax temperature of the contrastive loss.
        dense: weight of the auxiliary loss, see ``recipe.dense_loss``.
    """

    model: dict[str, Any]
    text_steps: int
    text_lr: float
    temperature: float
    dense: float

    @property
    def size(self) -> int:
        """See ``Recipe.size``."""
        return int(self.model["vision_cfg"]["image_size"])

    def steps(self, images: int) -> int:
        """See ``Recipe.steps``."""
        return self.text_steps + super().steps(images)

    def train(self, data: Corpus, seed: int, tick: Callable[[float], None] = lambda loss: None) -> torch.nn.Module:
        """See ``Recipe.train``: open_clip's CLIP."""
        import open_clip
        from open_clip.model import CLIP

        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = CLIP(**self.model)
        # Words that no caption holds, such as the names of diseases, stay as they are drawn: wide enough to differ.
        torch.nn.init.normal_(model.token_embedding.weight, std=0.3)
        whiten(model.visual.conv1.weight, model.visual.positional_embedding[1:], data.images)
        length = self.model["text_cfg"]["context_length"]
        tokens = open_clip.SimpleTokenizer(context_length=length)(data.captions)
        reading = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_"))]
        how: dict[str, Any] = {"steps": self.text_steps, "lr": self.text_lr, "batch": 2 * self.batch}
        how["temperature"] = self.temperature
        for loss in read(partial(model.encode_text, normalize=True), reading, tokens, data.meaning, generator, **how):
            tick(loss)
        with torch.no_grad():
            texts = torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(256)])
            model.logit_scale.fill_(math.log(1 / self.temperature))
        for loss in _see(model, texts, self, data, generator):
            tick(loss)
        return model.eval()

    def write(self, model: torch.nn.Module, folder: Path) -> None:
        """See ``Recipe.write``: open_clip's local-dir format."""
        from safetensors.torch import save_file

        pixels = {
            "size": [self.size] * 2,
            "mode": "RGB",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        }
        config = {"model_cfg": self.model, "preprocess_cfg": pixels}
        save_file(half(model), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def contrastive_loss(left: Tensor, right: Tensor, meaning: Tensor, temperature: float) -> Tensor:
    """CLIP's symmetric loss where every pair of equal meaning counts as a match.

    Many healthy pictures share one sentence: with CLIP's own one-to-one targets they would be pushed apart
    (unified contrastive learning, Yang et al. 2022).

    Args:
        left, right: unit vectors ``(N, D)``.
        meaning: ``(N,)``.
        temperature: > 0.
    """
    logits = left @ right.T / temperature
    target = (meaning[:, None] == meaning[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def read(
    encode: Callable[[Tensor], Tensor],
    weights: list[torch.nn.Parameter],
    tokens: Tensor,
    meaning: Tensor,
    generator: torch.Generator,
    *,
    steps: int,
    lr: float,
    batch: int,
    temperature: float,
) -> Iterator[float]:
    """Train a text tower to equal embeddings of captions of equal meaning; yield the loss of every step.

    Args:
        encode: tokens ``(n, L)`` to unit vectors ``(n, D)``.
        weights: what trains.
        tokens: of all captions ``(N, L)``.
        meaning: ``(N,)``, equal where captions mean the same.
        generator: the only source of randomness.
        steps, lr, batch, temperature: captions a step, each paired with another one of the same meaning.
    """
    kin = {int(m): torch.nonzero(meaning == m).flatten() for m in meaning.unique()}
    optimiser = torch.optim.AdamW(weights, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(steps):
        set_lr(optimiser, lr, step, steps)
        rows = torch.randperm(len(tokens), generator=generator)[:batch]
        groups = [kin[int(m)] for m in meaning[rows]]
        twins = torch.stack([g[torch.randint(len(g), (1,), generator=generator)[0]] for g in groups])
        loss = contrastive_loss(encode(tokens[rows]), encode(tokens[twins]), meaning[rows], temperature)
        descend(loss, optimiser, weights)
        yield float(loss.detach())


def _see(model: Any, texts: Tensor, recipe: Contrastive, data: Corpus, generator: torch.Generator) -> Iterator[float]:
    """Train the image tower to the captions' embeddings; yield the contrastive loss of every step."""
    visual = model.visual
    head = torch.nn.Linear(recipe.model["vision_cfg"]["width"], 1 + len(FINDINGS))
    weights = [*visual.parameters(), *head.parameters()]
    optimiser = recipe.optimiser(weights)
    steps = recipe.steps(len(data.images)) - recipe.text_steps
    visual.output_tokens = True
    for step, rows in enumerate(recipe.batches(len(data.images), generator)):
        set_lr(optimiser, recipe.lr, step, steps)
        images, maps = augment(data.images[rows], data.maps[rows], generator)
        image, patches = visual(images.expand(-1, 3, -1, -1))
        loss = contrastive_loss(
            functional.normalize(image, dim=-1), texts[rows], data.meaning[rows], recipe.temperature
        )
        descend(loss + recipe.dense * dense_loss(head(patches), maps, data.kinds[rows]), optimiser, weights)
        yield float(loss.detach())
    visual.output_tokens = False
