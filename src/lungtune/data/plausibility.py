"""Judgement of decoded pictures: constant, nearly constant, nearly all black or white, inverted against their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lungtune.data.sources._files import named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

CONSTANT = "constant"
NEARLY_CONSTANT = "nearly constant"
BLACK = "nearly all black"
WHITE = "nearly all white"
INVERTED = "inverted against most of their class"
CLASS_INVERTED = "inverted against most of the other classes"

_CONSTANT = 0.5
"""Highest standard deviation, of 255, of a picture that counts as constant."""
_SPREAD = 8.0
"""Lowest of a picture that does not count as nearly constant. Chest X-rays have 23 and more."""
_EXTREME = 0.9
"""Share of pixels at 0, or at 255, from which a picture counts as nearly all black or white."""
_OPPOSITE = -0.4
"""Correlation with the common picture from which a picture counts as inverted."""
_COMMON = 0.4
"""Lowest median correlation with the common picture of images that have one."""
_FEW = 8
"""Fewest images that have a common picture."""


def odd_images(labels: Sequence[str | None], facts: pd.DataFrame) -> dict[str, list[int]]:
    """Detect constant, nearly constant, black, white and inverted images; volumes are left out.

    Args:
        labels: each case's class, or None.
        facts: what `scan` returned, a row per case.

    Returns:
        Kind -> row numbers, of kinds that occur. A picture has one kind.
    """
    rows = np.flatnonzero((facts["error"].isna() & (facts["kind"] == "image")).to_numpy())
    if not len(rows):
        return {}
    spread, black, white = (facts[name].to_numpy()[rows].astype(float) for name in ("spread", "black", "white"))
    kinds = np.full(len(rows), "", dtype=object)
    kinds[spread < _SPREAD] = NEARLY_CONSTANT
    kinds[black >= _EXTREME] = BLACK
    kinds[white >= _EXTREME] = WHITE
    kinds[spread < _CONSTANT] = CONSTANT
    usable = kinds == ""
    previews = facts["preview"].to_numpy()[rows[usable]]
    groups = np.array([labels[row] or "" for row in rows[usable]], dtype=object)
    if usable.any():
        kinds[usable] = _polarity(_standardised(previews), groups)
    order = (CONSTANT, NEARLY_CONSTANT, BLACK, WHITE, INVERTED, CLASS_INVERTED)
    return {kind: [int(row) for row in rows[kinds == kind]] for kind in order if (kinds == kind).any()}


def odd_sentences(
    case_ids: Sequence[str], odd: Mapping[str, Sequence[int]], facts: pd.DataFrame
) -> tuple[list[str], list[str]]:
    """Return problems and warnings on `odd_images`, on what readers corrected, and on files changed in place."""
    problems, warnings = [], []
    for kind, rows in odd.items():
        shown = named([case_ids[row] for row in rows])
        if kind == CONSTANT:
            problems.append(
                f"Every image must show something, but {len(rows)} of {len(case_ids)} are {kind}: {shown}. "
                "Mend these files, or take them away."
            )
        else:
            warnings.append(f"{len(rows)} of {len(case_ids)} images are {kind}: {shown}.")
    corrected = [f"{case} ({oddity})" for case, oddity in zip(case_ids, facts["oddity"], strict=True) if oddity]
    if corrected:
        warnings.append(f"{len(corrected)} of {len(case_ids)} images were corrected on reading: {named(corrected)}.")
    changed = facts.attrs.get("changed", [])
    if changed:
        warnings.append(
            f"{len(changed)} files have another content than when they were read last, though not another size or "
            f"time: {named(list(changed))}. Pixel stores and studies from before hold the old content."
        )
    return problems, warnings


def _standardised(previews: Sequence[bytes]) -> np.ndarray:
    """Return previews as float32 `(N, P)` rows of mean 0 and norm 1."""
    rows = np.frombuffer(b"".join(previews), np.uint8).reshape(len(previews), -1).astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def _polarity(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return `INVERTED`, `CLASS_INVERTED` or an empty string for each row; `groups` are the classes."""
    kinds = np.full(len(rows), "", dtype=object)
    commons, sizes = {}, {}
    for group in dict.fromkeys(groups):
        members = np.flatnonzero(groups == group)
        common = _common(rows[members])
        if common is None:
            continue
        commons[group], sizes[group] = common, len(members)
        kinds[members[rows[members] @ common <= _OPPOSITE]] = INVERTED
    for group, common in commons.items():
        others = [other for other in commons if other != group]
        opposed = sum(sizes[other] for other in others if commons[other] @ common <= _OPPOSITE)
        if 2 * opposed > sum(sizes[other] for other in others) and 2 * sizes[group] <= sum(sizes.values()):
            kinds[(groups == group) & (kinds == "")] = CLASS_INVERTED
    return kinds


def _common(rows: np.ndarray) -> np.ndarray | None:
    """Return the picture most rows share, up to its polarity, which is that of most rows; None without one.

    It is the first principal component, which pictures of either polarity have in common, unlike the mean.
    """
    if len(rows) < _FEW:
        return None
    common = np.linalg.eigh((rows.T @ rows).astype(np.float64))[1][:, -1].astype(np.float32)
    alike = rows @ common
    if np.median(alike) < 0:
        common, alike = -common, -alike
    return common if np.median(np.abs(alike)) >= _COMMON else None
