"""Detection of duplicate images; of volumes, the middle slices are compared.

Three degrees:

- **exact**: the same bytes or the same decoded pixels.
- **copy**: the same picture after re-encoding, resizing, a change of brightness, gamma or local contrast, inversion,
  mirroring, uniform borders around it, a crop of up to 5 % a side, a rotation of up to 3 degrees, a text marker. Once
  aligned, fine details of the fingerprints correlate at `COPY` or more.
- **look-alike**: they correlate at `LOOKALIKE` or more. Most are two exposures of one patient in one pose, some are
  different patients, so it is weak evidence, used only where patient ids do not decide.

Candidates are nearest neighbours of descriptors (`candidates`). Each is aligned at a quarter and half of the
resolution, rejected if it does not correlate there, and compared at the full one. Recall and time are measured by
`benchmarks/near_copies.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lungtune.core import environment
from lungtune.data.candidates import candidates, coarse
from lungtune.data.fingerprint import SIDE, contrast_normalised, equalised, pictures, reduced
from lungtune.data.registration import IDENTITY, align, likeness

if TYPE_CHECKING:
    import pandas as pd

COPY = 0.85
"""Least likeness of copies, -1..1."""
LOOKALIKE = 0.80
"""Least likeness of look-alikes."""

_HALF, _QUARTER = SIDE // 2, SIDE // 4
_GATE = 0.86  # least likeness at half the resolution
_LEVELS = 40  # int8 steps of a picture kept at half the resolution, whose values are within 3
_BLOCK = 64  # pairs compared at a time: their arrays fit the processor's cache
_ROTATED, _CROPPED = 0.026, 0.03  # departures of an affine map from the identity: 1.5 degrees, 1.5 % a side


@dataclass(frozen=True)
class Pair:
    """Two rows that show (nearly) the same picture.

    Attributes:
        first: row number, less than `second`.
        second: row number.
        kind: `copy` or `look-alike`.
        likeness: correlation of the aligned fingerprints, -1..1.
        relation: what aligns them: `inverted`, `flipped`, `rotated`, `cropped`, several of them, or nothing.
    """

    first: int
    second: int
    kind: str
    likeness: float
    relation: tuple[str, ...] = ()


class Union:
    """Union-find over `n` rows."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def find(self, row: int) -> int:
        """Return the first row of the group `row` is in."""
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, rows: Iterable[int]) -> None:
        """Put `rows` into one group."""
        first, *rest = rows
        for row in rest:
            a, b = sorted((self.find(first), self.find(row)))
            self._parent[b] = a


def exact_groups(facts: pd.DataFrame) -> list[list[int]]:
    """Return groups (two rows or more, ascending) with equal bytes or equal pixels; unreadable rows are in none."""
    union = Union(len(facts))
    for column in ("sha1", "pixels"):
        seen: dict[str, int] = {}
        for row, value in enumerate(facts[column]):
            if value is not None:
                union.join((seen.setdefault(value, row), row))
    return _groups([union.find(row) for row in range(len(facts))])


def near_pairs(facts: pd.DataFrame) -> list[Pair]:
    """Return all copies and look-alikes that are not exact duplicates of each other.

    Of each set of exact duplicates only the first row is compared: it stands for the others.
    """
    later = {row for group in exact_groups(facts) for row in group[1:]}
    rows = [r for r, e in enumerate(facts["error"]) if e is None and r not in later]
    column = facts["fingerprint"].to_numpy()
    fingerprints = [column[row] for row in rows]
    proposed = candidates(fingerprints)
    with ThreadPoolExecutor(environment.cores()) as pool:
        parts = (fingerprints[k : k + _BLOCK] for k in range(0, len(rows), _BLOCK))
        small = np.concatenate([np.zeros((0, _HALF, _HALF), np.int8), *pool.map(_half, parts)])
        blocks = (proposed[k : k + 4 * _BLOCK] for k in range(0, len(proposed), 4 * _BLOCK))
        passed = [kept for kept in pool.map(lambda block: _gate(small, block), blocks) if len(kept[0])]
        pairs = np.concatenate([np.zeros((0, 3), np.int64), *(kept[0] for kept in passed)])
        maps = np.concatenate([np.zeros((0, 2, 3), np.float32), *(kept[1] for kept in passed)])
        slices = [slice(k, k + _BLOCK) for k in range(0, len(pairs), _BLOCK)]
        compared = list(pool.map(lambda part: _compare(fingerprints, pairs[part], maps[part]), slices))
    best: dict[tuple[int, int], Pair] = {}
    for pair in (pair for block in compared for pair in block):
        key = rows[pair.first], rows[pair.second]
        if key not in best or best[key].likeness < pair.likeness:
            best[key] = replace(pair, first=key[0], second=key[1])
    return [best[key] for key in sorted(best)]


def _half(fingerprints: Sequence[bytes]) -> np.ndarray:
    """Return coarse pictures at half the resolution, int8 `(N, S / 2, S / 2)`."""
    images = reduced(coarse(pictures(fingerprints)), _HALF)
    return np.clip(np.rint(images * _LEVELS), -127, 127).astype(np.int8)


def _gate(small: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the candidates that are alike at half the resolution, and the affine maps that align them.

    Args:
        small: all pictures, int8 `(N, S / 2, S / 2)`.
        block: candidates `(P, 3)`.
    """
    first, second = (small[block[:, k]].astype(np.float32) / _LEVELS for k in (0, 1))
    second = _mirrored(second, block[:, 2])
    second *= _sign(first, second)
    maps = np.zeros((len(block), 2, 3), np.float32) + IDENTITY
    maps = align(reduced(first, _QUARTER), reduced(second, _QUARTER), maps, 4)
    maps = align(first, second, maps, 3)
    fine, fine_other = (contrast_normalised(images, 1.5, 0.1) for images in (first, second))
    kept = likeness(fine, fine_other, maps) >= _GATE
    return block[kept], maps[kept]


def _compare(fingerprints: Sequence[bytes], block: np.ndarray, maps: np.ndarray) -> list[Pair]:
    """Return the copies and look-alikes among candidates that are nearly aligned, with row numbers of `fingerprints`.

    Args:
        fingerprints: of all pictures.
        block: candidates `(P, 3)`.
        maps: affine maps `(P, 2, 3)` that nearly align them.
    """
    one, other = (pictures([fingerprints[row] for row in block[:, k]]) for k in (0, 1))
    other = np.ascontiguousarray(_mirrored(other, block[:, 2]))
    first, second = coarse(one), coarse(other)
    sign = _sign(first, second)
    maps = align(first, second * sign, maps, 2)
    fine, fine_other = (contrast_normalised(equalised(images), 1.5, 0.05) for images in (one, other))
    scores = likeness(fine, fine_other * sign, maps)
    pairs = []
    for k in np.flatnonzero(scores >= LOOKALIKE):
        kind = "copy" if scores[k] >= COPY else "look-alike"
        pairs.append(
            Pair(
                int(block[k, 0]),
                int(block[k, 1]),
                kind,
                round(float(scores[k]), 4),
                _relation(sign[k], block[k, 2], maps[k]),
            )
        )
    return pairs


def _relation(sign: np.ndarray, flip: int, maps: np.ndarray) -> tuple[str, ...]:
    """Return the words of `Pair.relation`."""
    change = np.abs(maps - IDENTITY)
    words = {
        "inverted": sign.item() < 0,
        "flipped": bool(flip),
        "rotated": min(change[0, 1], change[1, 0]) > _ROTATED,
        "cropped": max(change[0, 0], change[1, 1], change[0, 2], change[1, 2]) > _CROPPED,
    }
    return tuple(word for word, holds in words.items() if holds)


def _mirrored(images: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Return pictures `(P, S, S)`, those with `flips` 1 mirrored."""
    return np.where(flips[:, None, None] == 1, images[:, :, ::-1], images)


def _sign(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1 or -1, `(P, 1, 1)`: the sign of the correlation of pictures at low resolution."""
    low = [reduced(images, _QUARTER) for images in (first, second)]
    return np.where((low[0] * low[1]).sum(axis=(1, 2), keepdims=True) < 0, -1, 1).astype(np.float32)


def _groups(roots: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for row, root in enumerate(roots):
        groups.setdefault(root, []).append(row)
    return [group for group in groups.values() if len(group) > 1]
