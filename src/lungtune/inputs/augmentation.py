"""Augmentation of all spatial fields of a batch, images or volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lungtune.core.fields import Field
from lungtune.inputs import transforms2d, transforms3d


def augment(
    values: Mapping[str, Tensor],
    fields: Sequence[Field],
    levels: Sequence[int],
    counts: Sequence[int],
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Return the spatial ``fields`` of a batch augmented: those of a row move together, masks stay zeros and ones.

    Args:
        values: field name to tensor, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        fields: which of them are spatial; all of one rank.
        levels: 0..3, one for each slot.
        counts: rows of each slot.
        generators: one for each slot.

    Raises:
        ValueError: images and volumes are mixed.
    """
    pixels = [field.name for field in fields if field.pixels]
    masks = [field.name for field in fields if field.kind == "mask"]
    if not pixels and not masks:
        return {}
    ranks = {values[name].ndim for name in (*pixels, *masks)}
    if len(ranks) > 1:
        raise ValueError("the spatial fields of a family must have one rank, but images and volumes are mixed")
    move = transforms2d.augment if ranks == {4} else transforms3d.augment
    moved = move([values[name] for name in pixels], [values[name] for name in masks], levels, counts, generators)
    return dict(zip((*pixels, *masks), (*moved[0], *moved[1]), strict=True))
