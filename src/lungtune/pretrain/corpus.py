"""Pretraining corpus of the tiny bases: phantoms of domain A with captions and numeric findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lungtune.data.phantom import generate
from lungtune.data.phantom.captions import FINDINGS

MEAN, STD = 0.5, 0.25  # about those of domain A's pixels


@dataclass(frozen=True)
class Corpus:
    """Images and their targets.

    Attributes:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, lung and lesion masks, 0 or 255.
        kinds: float ``(N, F)``, 1 for each of ``FINDINGS`` that the picture shows.
        places: float ``(N, M)``, 1 for each finding at each place that the picture shows, such as an effusion on the
            right; columns are those that occur, in alphabetical order.
        captions: one a picture.
        meaning: int64 ``(N,)``; equal for pictures whose findings and places are the same.
    """

    images: Tensor
    maps: Tensor
    kinds: Tensor
    places: Tensor
    captions: list[str]
    meaning: Tensor


def corpus(
    patients: int, *, render_size: int, size: int, seed: int = 0, tick: Callable[[], None] = lambda: None
) -> Corpus:
    """Render domain A and shrink it.

    Args:
        patients: how many; about 1.85 images each.
        render_size: width of the rendered pictures, px.
        size: width they are shrunk to, px.
        seed: of the phantoms.
        tick: called for every picture.
    """
    images, maps, kinds, captions, seen = [], [], [], [], []
    for phantom in generate(patients, seed=seed, domain="A", size=render_size):
        images.append(_shrink(phantom.image, size, Image.Resampling.BICUBIC))
        both = (phantom.lung_mask, phantom.lesion_mask)
        maps.append(np.stack([_shrink(m.astype(np.uint8) * 255, size, Image.Resampling.BOX) for m in both]))
        findings = phantom.latent["findings"]
        shown = {f["finding"] for f in findings}
        kinds.append([float(name in shown) for name in FINDINGS])
        captions.append(phantom.caption)
        seen.append(sorted(f"{f['finding']} {f['side']} {f['zone']}" for f in findings))
        tick()
    meanings = ["; ".join(places) for places in seen]
    known = {key: i for i, key in enumerate(sorted(set(meanings)))}
    every = sorted({place for places in seen for place in places})
    return Corpus(
        images=torch.from_numpy(np.stack(images)),
        maps=torch.from_numpy(np.stack(maps)),
        kinds=torch.tensor(kinds),
        places=torch.tensor([[float(place in places) for place in every] for places in seen]),
        captions=captions,
        meaning=torch.tensor([known[key] for key in meanings]),
    )


def _shrink(pixels: NDArray[np.uint8], size: int, how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((size, size), how))


def augment(images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shift, turn, scale and re-expose a batch.

    Args:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, moved along with the images.
        generator: the only source of randomness.

    Returns:
        Images, float ``(N, 1, S, S)``, normalised; maps, float ``(N, 2, S, S)`` in [0, 1].
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
    return (grey - MEAN) / STD, stack[:, 1:]
