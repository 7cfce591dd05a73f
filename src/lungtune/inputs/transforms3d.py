"""Augmentation of volume batches, with one strength per trial; levels as in ``transforms2d``.

| level | geometry (each volume, uniform) | intensity |
|---|---|---|
| 0 | none | none |
| 1 | rotation +-5 deg in the axial plane, shift +-4 %, scale +-5 % | brightness +-0.08, contrast +-10 % |
| 2 | rotation +-8 deg, shift +-6 %, scale +-8 % | + gamma 2^+-0.3, noise sd up to 0.03 |
| 3 | rotation +-12 deg about all three axes, shift +-8 %, scale +-12 %, flips of each axis | stronger |

Axes are ``(D, H, W)``; the axial plane is (H, W). What leaves the volume is 0, as air.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lungtune.inputs.transforms2d import LEVELS, level_noise

_DRAWS = 14
_TILTED = 3
"""Level from which volumes rotate about all axes and are flipped along all."""


def augment(
    pixels: Sequence[Tensor],
    masks: Sequence[Tensor],
    levels: Sequence[int],
    counts: Sequence[int],
    generators: Sequence[torch.Generator],
) -> tuple[list[Tensor], list[Tensor]]:
    """Return augmented copies; a slot's result depends on its own rows, level and generator only.

    Args:
        pixels: volumes, float ``(N, C, D, H, W)`` in [0, 1], rows of one slot together.
        masks: ``(N, 1, D, H, W)`` of zeros and ones, which stay zeros and ones.
        levels: 0..3, one for each slot.
        counts: rows of each slot.
        generators: one for each slot, on the volumes' device; level 0 draws nothing.
    """
    if not any(levels):
        return list(pixels), list(masks)
    first = (*pixels, *masks)[0]
    device = first.device
    neutral = torch.full((_DRAWS,), 0.5, device=device)
    draws, rows = [], []
    for level, count, generator in zip(levels, counts, generators, strict=True):
        drawn = torch.rand(count, _DRAWS, generator=generator, device=device) if level else neutral.expand(count, -1)
        draws.append(drawn)
        rows += [[float(value) for value in vars(LEVELS[level]).values()] + [float(level >= _TILTED)]] * count
    drawn, limits = torch.cat(draws), torch.tensor(rows, device=device).T
    noises = [level_noise(each, levels, counts, generators) for each in pixels]
    moved = [_intensity(_geometry(x, drawn, limits), drawn, limits, noise) for x, noise in zip(pixels, noises)]
    return moved, [(_geometry(mask, drawn, limits) > 0.5).float() for mask in masks]


def _geometry(x: Tensor, draws: Tensor, limits: Tensor) -> Tensor:
    signed = draws.T * 2 - 1
    rotation, shift, scale, flip, tilted = limits[0] * (math.pi / 180), limits[1], limits[2], limits[7], limits[8]
    angles = [signed[0] * rotation, signed[1] * rotation * tilted, signed[2] * rotation * tilted]
    zoom = 1 + signed[3] * scale
    mirror = [torch.where(draws[:, 4 + axis] < flip, -1.0, 1.0) for axis in range(3)]
    turn = _turn(angles) * zoom.view(-1, 1, 1) * torch.stack(mirror, 1).unsqueeze(1)
    # Shares of the side are halves of grid_sample's [-1, 1]; grid_sample's order is (W, H, D).
    move = torch.stack([signed[7] * 2 * shift, signed[8] * 2 * shift, signed[9] * 2 * shift], 1).unsqueeze(2)
    still = ((limits[0] + limits[1] + limits[2] + flip) == 0).view(-1, 1, 1)
    theta = torch.where(still, torch.eye(3, 4, device=x.device).expand(len(x), -1, -1), torch.cat([turn, move], 2))
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.where(still.view(-1, 1, 1, 1, 1), x, moved)


def _turn(angles: Sequence[Tensor]) -> Tensor:
    """Return rotation matrices ``(N, 3, 3)`` in the order (W, H, D): about D, then H, then W."""
    one, zero = torch.ones_like(angles[0]), torch.zeros_like(angles[0])
    (c0, s0), (c1, s1), (c2, s2) = ((angle.cos(), angle.sin()) for angle in angles)
    about_d = torch.stack([c0, -s0, zero, s0, c0, zero, zero, zero, one], 1).view(-1, 3, 3)
    about_h = torch.stack([c1, zero, s1, zero, one, zero, -s1, zero, c1], 1).view(-1, 3, 3)
    about_w = torch.stack([one, zero, zero, zero, c2, -s2, zero, s2, c2], 1).view(-1, 3, 3)
    return about_d @ about_h @ about_w


def _intensity(x: Tensor, draws: Tensor, limits: Tensor, noise: Tensor | None) -> Tensor:
    signed, wide = (draws.T * 2 - 1)[:, :, None, None, None, None], limits[:, :, None, None, None, None]
    contrast = 1 + signed[10] * wide[4]
    offset = signed[11] * wide[3] + 0.5 * (1 - contrast)
    x = torch.addcmul(offset, x, contrast).clamp_(0, 1)
    if noise is None:
        return x
    x = x.pow(torch.exp2(signed[12] * wide[5]))
    return x.addcmul_(noise, draws[:, 13].view(-1, 1, 1, 1, 1) * wide[6]).clamp_(0, 1)
