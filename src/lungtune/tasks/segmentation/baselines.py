"""Mean mask: the best constant segmentation."""

from __future__ import annotations

from typing import Any

import numpy as np

_AT_ONCE = 64
"""Masks read at a time."""


def mean_mask(train: Any) -> np.ndarray | None:
    """Return where at least half of a part's masks are set, bool ``(1, ...)``; None without any mask.

    Masks are read ``_AT_ONCE`` at a time, as they may be a memory map larger than memory.
    """
    rows, total = np.flatnonzero(train.has("mask")), None
    for first in range(0, len(rows), _AT_ONCE):
        some = (train["mask"][rows[first : first + _AT_ONCE]] > 0).sum(axis=0, dtype=np.int64)
        total = some if total is None else total + some
    return None if total is None else total * 2 >= len(rows)


def mean_mask_scores(train: Any, part: Any) -> dict[str, float]:
    """Return Dice and IoU of the mean training mask on a part, means over its cases with a mask; empty without any."""
    mean, rows = mean_mask(train), np.flatnonzero(part.has("mask"))
    if mean is None or not len(rows):
        return {}
    dice, iou = [], []
    for first in range(0, len(rows), _AT_ONCE):
        masks = part["mask"][rows[first : first + _AT_ONCE]] > 0
        axes = tuple(range(1, masks.ndim))
        both, total = (masks & mean).sum(axis=axes), masks.sum(axis=axes) + mean.sum()
        dice.append(np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0))
        iou.append(np.where(total > 0, both / np.maximum(total - both, 1), 1.0))
    return {name: float(np.concatenate(each).mean()) for name, each in (("dice", dice), ("iou", iou))}
