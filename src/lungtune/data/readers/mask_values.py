"""Meaning of a mask's values: which pixels or voxels are inside.

A mask may be black and white, of 0 and 1, or grey at its edges (resized or JPEG): what is above half is inside. One
with several values that fill areas is a label map, as of the left and the right lung; which of them are lung is the
user's choice (`mask_values`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungtune.data.readers.base import UnreadableImageError

WHITE = 127
"""Pixels above it are inside, unless the mask is of small numbers."""

_MOST_LABELS = 32
_MOST_AREAS = 8  # of values between black and white among more values than labels
_EDGE = 16  # values that close to black or to the brightest are that, in a JPEG
_FLAT = 4  # greatest difference of values inside an area of one label
_SMUDGE = 0.0005  # least share of the pixels that are such an area's inner ones
_GREY = 0.5  # least share of the pixels that are neither black nor white in a picture that is no mask


def levels(values: np.ndarray) -> tuple[int, ...]:
    """Return the values of the areas of a mask, ascending, without 0: none of a black mask, several of a label map.

    Args:
        values: `(H, W)` or `(D, H, W)` of any real type.

    Raises:
        UnreadableImageError: it is a picture, not a mask.
    """
    distinct, counts = np.unique(values, return_counts=True)
    brightest = float(distinct[-1])
    if distinct[0] < 0 or not np.equal(distinct, np.round(distinct)).all():
        held = tuple(distinct[distinct != 0])
        if len(held) == 1:  # 0 and 0.5, say
            return (int(np.ceil(abs(held[0]))),)
        raise UnreadableImageError("must hold whole numbers from 0, one per area, but does not")
    if len(distinct) <= 2 and (len(distinct) == 1 or distinct[0] == 0):
        return (int(brightest),) if brightest else ()
    if brightest <= WHITE:
        if len(distinct) > _MOST_LABELS:
            raise UnreadableImageError(
                f"must be black and white, or hold a number per area, but holds {len(distinct)} values "
                f"to {brightest:.0f}"
            )
        return tuple(int(value) for value in distinct if value)
    scale = max(1.0, brightest / 255)  # of 16-bit masks
    middle = (distinct > _EDGE * scale) & (distinct < brightest - _EDGE * scale)
    if not middle.any():
        return (int(brightest),)
    areas = _areas(values, brightest, scale)
    picture = counts[middle].sum() > _GREY * values.size if not areas else len(areas) > _MOST_AREAS
    if picture and len(distinct) > _MOST_LABELS:
        raise UnreadableImageError("must be black and white, or hold a number per area, but is a grey picture")
    return (*areas, int(brightest)) if areas else (int(brightest),)


def _areas(values: np.ndarray, brightest: float, scale: float) -> tuple[int, ...]:
    """Return the values that fill areas, but for those next to black and to the brightest."""
    wide = values.astype(np.int64)
    flat = wide[tuple(slice(1, -1) for _ in wide.shape)]
    low, high = flat.copy(), flat.copy()
    for axis in range(wide.ndim):
        for start in (0, 2):
            at = [slice(1, -1)] * wide.ndim
            at[axis] = slice(start, wide.shape[axis] - 2 + start)
            np.minimum(low, wide[tuple(at)], out=low)
            np.maximum(high, wide[tuple(at)], out=high)
    inner = flat[(high - low <= _FLAT * scale) & (flat > _EDGE * scale) & (flat < brightest - _EDGE * scale)]
    distinct, counts = np.unique(inner, return_counts=True)
    areas: list[int] = []
    least = max(4, _SMUDGE * values.size)
    for at in np.argsort(-counts, kind="stable"):  # the most frequent value stands for its neighbours
        value = int(distinct[at])
        around = counts[np.abs(distinct - value) <= _FLAT * scale].sum()
        if around >= least and all(abs(value - other) > _EDGE * scale for other in areas):
            areas.append(value)
    return tuple(sorted(areas))


def inside(values: np.ndarray, chosen: Sequence[int] = ()) -> np.ndarray:
    """Return uint8 of the same shape: 255 inside, else 0.

    Args:
        values: of a mask.
        chosen: the values inside; without any what is above 127 (half of what is brightest in a 16-bit mask) or, in a
            mask of 0 and one small number, above 0.

    Raises:
        UnreadableImageError: several small numbers, and none is chosen.
    """
    if chosen:
        lossy = values.max() > WHITE and len(np.unique(values)) > _MOST_LABELS
        near = _EDGE if lossy else 0  # a JPEG's values are not exact
        mask = np.zeros(values.shape, bool)
        for value in chosen:
            mask |= (values >= value - near) & (values <= value + near)
    else:
        brightest = values.max()
        mask = values > (brightest / 2 if brightest > 255 else WHITE if brightest > WHITE else 0)
        if 0 < brightest <= WHITE and len(np.unique(values)) > 2:
            raise UnreadableImageError("holds several small numbers: say which are lung, as in mask_values=1|2")
    return np.where(mask, np.uint8(255), np.uint8(0))
