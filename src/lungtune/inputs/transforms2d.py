"""X-ray-safe augmentation of image batches, with one strength per trial.

| level | geometry (each image, uniform) | intensity |
|---|---|---|
| 0 | none | none |
| 1 | rotation +-5 deg, shift +-4 %, scale +-5 % | brightness +-0.08, contrast +-10 % |
| 2 | rotation +-8 deg, shift +-6 %, scale +-8 % | + gamma 2^+-0.3, noise sd up to 0.03 |
| 3 | rotation +-12 deg, shift +-8 %, scale +-12 %, horizontal flip | stronger |

Never a vertical flip (no patient hangs from the ceiling); a horizontal flip turns the heart to the right side, so it
comes only at the highest level. What leaves the frame is black, as beyond the collimator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Strength:
    """Half-ranges of one level: degrees, shares of the image side, brightness, contrast, log2 gamma, noise sd."""

    rotation: float
    shift: float
    scale: float
    brightness: float
    contrast: float
    gamma: float
    noise: float
    flip: float


LEVELS = (
    Strength(0, 0, 0, 0, 0, 0, 0, 0),
    Strength(5, 0.04, 0.05, 0.08, 0.10, 0, 0, 0),
    Strength(8, 0.06, 0.08, 0.10, 0.15, 0.3, 0.03, 0),
    Strength(12, 0.08, 0.12, 0.15, 0.25, 0.5, 0.05, 0.5),
)
_DRAWS = 9


def augment(
    pixels: Sequence[Tensor],
    masks: Sequence[Tensor],
    levels: Sequence[int],
    counts: Sequence[int],
    generators: Sequence[torch.Generator],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return augmented copies; a slot's result depends on its own rows, level and generator only.

    All fields of a row move together: one geometric draw a row. Intensities of pixels change alike in all channels,
    but for noise.

    Args:
        pixels: images, float ``(N, C, H, W)`` in [0, 1], rows of one slot together.
        masks: ``(N, 1, H, W)`` of zeros and ones, which stay zeros and ones.
        levels: 0..3, one for each slot.
        counts: rows of each slot.
        generators: one for each slot, on the images' device; level 0 draws nothing.

    Returns:
        Pixels and masks in the shapes of the arguments; the tensors themselves when every level is 0.
    """
    pixels, masks = list(pixels), list(masks)
    moving = [level > 0 for level in levels]
    if not any(moving):
        return pixels, masks
    if not all(moving):
        some = [i for i, moves in enumerate(moving) if moves]
        parts = [list(each.split(list(counts))) for each in (*pixels, *masks)]
        chosen = [torch.cat([rows[i] for i in some]) for rows in parts]
        few = [levels[i] for i in some], [counts[i] for i in some], [generators[i] for i in some]
        changed = augment(chosen[: len(pixels)], chosen[len(pixels) :], *few)
        for rows, new in zip(parts, (*changed[0], *changed[1]), strict=True):
            for i, part in zip(some, new.split([counts[i] for i in some]), strict=True):
                rows[i] = part
        joined = [torch.cat(rows) for rows in parts]
        return joined[: len(pixels)], joined[len(pixels) :]
    device = (*pixels, *masks)[0].device
    draws = torch.cat(
        [torch.rand(n, _DRAWS, generator=g, device=device) for n, g in zip(counts, generators, strict=True)]
    )
    limits = _limits(levels, counts, device)
    noises = [level_noise(each, levels, counts, generators) for each in pixels]
    moved = [_intensity(_geometry(x, draws, limits), draws, limits, noise) for x, noise in zip(pixels, noises)]
    return moved, [(_geometry(mask, draws, limits) > 0.5).float() for mask in masks]


def _limits(levels: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """Return ``(8, N)``: each row's half-ranges, in the order of ``Strength``'s fields."""
    rows = [
        [s.rotation * math.pi / 180, s.shift, s.scale, s.brightness, s.contrast, s.gamma, s.noise, s.flip]
        for s in (LEVELS[level] for level in levels)
    ]
    table = torch.tensor(rows).repeat_interleave(torch.tensor(counts), 0)
    return table.to(device, non_blocking=True).T


def _geometry(images: Tensor, draws: Tensor, limits: Tensor) -> Tensor:
    signed = draws.T * 2 - 1
    rotation, shift, scale, flip = limits[0], limits[1], limits[2], limits[7]
    angle = signed[0] * rotation
    zoom = 1 + signed[1] * scale
    mirror = torch.where(draws[:, 2] < flip, -1.0, 1.0)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    # Shares of the side are halves of grid_sample's [-1, 1].
    theta = torch.stack([mirror * cos, -sin, signed[3] * 2 * shift, mirror * sin, cos, signed[4] * 2 * shift], 1)
    grid = F.affine_grid(theta.view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _intensity(images: Tensor, draws: Tensor, limits: Tensor, noise: Tensor | None) -> Tensor:
    signed = (draws.T * 2 - 1)[:, :, None, None, None]
    wide = limits[:, :, None, None, None]
    contrast = 1 + signed[5] * wide[4]
    offset = signed[6] * wide[3] + 0.5 * (1 - contrast)
    images = torch.addcmul(offset, images, contrast).clamp_(0, 1)
    if noise is None:
        return images
    images = images.pow_(torch.exp2(signed[7] * wide[5]))  # x ** 1 is x for rows whose level has no gamma
    return images.addcmul_(noise, draws[:, 8].view(-1, 1, 1, 1) * wide[6]).clamp_(0, 1)


def level_noise(
    images: Tensor, levels: Sequence[int], counts: Sequence[int], generators: Sequence[torch.Generator]
) -> Tensor | None:
    """Return standard normal noise for the rows of noisy levels, zeros for others; None when no level is noisy."""
    if not any(LEVELS[level].noise for level in levels):
        return None
    noise = torch.zeros_like(images)
    for part, level, generator in zip(noise.split(list(counts)), levels, generators, strict=True):
        if LEVELS[level].noise:
            part.normal_(generator=generator)
    return noise
