"""What a tiny base is made of and what it learns from: recipes, pictures and captions of phantom domain A."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lungtune.data.phantom import Phantom, generate
from lungtune.data.phantom.captions import FINDINGS

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VISION = {
    "image_size": 64,
    "layers": 4,
    "width": 128,
    "head_width": 32,
    "patch_size": 8,
    "mlp_ratio": 4.0,
    "pool_type": "avg",  # small lesions count from the first step; a class token first has to learn to look
}
MEAN, STD = 0.5, 0.25  # about those of domain A's pixels


@dataclass(frozen=True)
class Recipe:
    """How a base is pretrained.

    Attributes:
        model: open_clip's model configuration.
        patients: patients of phantom domain A; about 1.85 images each.
        render_size: width of the rendered pictures before they shrink to the model's, px.
        text_steps: steps in which the text tower alone learns that paraphrases mean the same.
        passes: passes over the images, in which the image tower learns to meet the captions.
        batch: images a step (captions: twice as many).
        text_lr, lr: peak learning rates of AdamW, after 10 % warm-up, falling along a cosine to zero.
        weight_decay: on the image tower's matrices.
        temperature: fixed softmax temperature of the contrastive loss.
        dense: weight of the auxiliary loss: every patch tells how much of it is lung, and how much of each finding.
    """

    model: dict[str, Any]
    patients: int
    render_size: int
    text_steps: int
    passes: int
    batch: int
    text_lr: float
    lr: float
    weight_decay: float
    temperature: float
    dense: float


RECIPES = {
    "tiny_clip": Recipe(
        model={"embed_dim": 128, "vision_cfg": _VISION, "text_cfg": _TEXT},
        patients=3000,
        render_size=96,
        text_steps=120,
        passes=9,
        batch=64,
        text_lr=3.0e-3,
        lr=2.0e-3,
        weight_decay=0.05,
        temperature=0.07,
        dense=2.0,
    ),
}
"""Name of a base -> how to make it."""


@dataclass(frozen=True)
class Corpus:
    """Images and captions to learn from.

    Attributes:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, lung and lesion masks, 0 or 255.
        kinds: float ``(N, F)``, 1 for each of ``FINDINGS`` that the picture shows.
        captions: one a picture.
        meaning: int64 ``(N,)``; equal for pictures whose findings and places are the same.
    """

    images: Tensor
    maps: Tensor
    kinds: Tensor
    captions: list[str]
    meaning: Tensor


def corpus(recipe: Recipe, seed: int, tick: Callable[[], None] = lambda: None) -> Corpus:
    """Render domain A and shrink it to the model's size; ``tick`` is called for every picture."""
    size = int(recipe.model["vision_cfg"]["image_size"])
    images, maps, kinds, captions, keys = [], [], [], [], []
    for phantom in generate(recipe.patients, seed=seed, domain="A", size=recipe.render_size):
        images.append(_shrink(phantom.image, size, Image.Resampling.BICUBIC))
        both = (phantom.lung_mask, phantom.lesion_mask)
        maps.append(np.stack([_shrink(m.astype(np.uint8) * 255, size, Image.Resampling.BOX) for m in both]))
        shown = {f["finding"] for f in phantom.latent["findings"]}
        kinds.append([float(name in shown) for name in FINDINGS])
        captions.append(phantom.caption)
        keys.append(_meaning(phantom))
        tick()
    known = {key: i for i, key in enumerate(sorted(set(keys)))}
    meaning = torch.tensor([known[key] for key in keys])
    pixels, masks = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(maps))
    return Corpus(pixels, masks, torch.tensor(kinds), captions, meaning)


def _shrink(pixels: NDArray[np.uint8], size: int, how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((size, size), how))


def _meaning(phantom: Phantom) -> str:
    return "; ".join(sorted(f"{f['finding']} {f['side']} {f['zone']}" for f in phantom.latent["findings"]))


def augment(images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shift, turn, scale and re-expose a batch.

    Args:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, moved along with the images.
        generator: the only source of randomness.

    Returns:
        Images, float ``(N, 3, S, S)``, normalised for the model; maps, float ``(N, 2, S, S)`` in [0, 1].
    """
    n = len(images)
    stack = torch.cat([images[:, None], maps], 1).float() / 255
    shape = (torch.rand(n, 4, generator=generator) - 0.5) * torch.tensor([0.16, 0.16, 0.20, 0.16])
    scale, turn = 1 + shape[:, 2], shape[:, 3]
    theta = torch.stack(
        [
            torch.stack([scale * turn.cos(), -scale * turn.sin(), shape[:, 0]], 1),
            torch.stack([scale * turn.sin(), scale * turn.cos(), shape[:, 1]], 1),
        ],
        1,
    )
    where = functional.affine_grid(theta, list(stack.shape), align_corners=False)
    stack = functional.grid_sample(stack, where, padding_mode="border", align_corners=False)
    light = torch.rand(n, 3, 1, 1, 1, generator=generator) - 0.5
    grey = stack[:, :1].clamp(1e-3, 1) ** torch.exp(0.8 * light[:, 0])
    grey = ((grey - 0.5) * (1 + 0.4 * light[:, 1]) + 0.5 + 0.2 * light[:, 2]).clamp(0, 1)
    return ((grey - MEAN) / STD).expand(-1, 3, -1, -1), stack[:, 1:]
