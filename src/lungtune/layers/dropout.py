"""Dropout masks of many trials from per-trial random streams, at the cost of reading the input.

Drawing is the costly part on a CPU (``bernoulli_`` takes 4.5 ns an element). Here sixteen random bits decide an
element, so a 64-bit draw serves four, and a few large draws serve all layers of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_CHUNK = 16384
"""Words of 64 bits in a chunk; part of what a seed means: changing it changes all masks."""
_FIRST = 1024
"""Words of a chunk that are drawn at first; then as many again, and so on: a head needs few."""


class Bits:
    """A trial's random bits of one step, handed out piece by piece.

    What a request gets depends on the generator's seed and on the sizes of earlier requests only.

    Args:
        device: where masks are needed.
    """

    def __init__(self, device: torch.device) -> None:
        self.generator = torch.Generator(device)
        self._chunk = torch.empty(_CHUNK, dtype=torch.int64, device=device)
        self._at = self._drawn = 0

    def restart(self, seed: int) -> Bits:
        """Begin a step; return self."""
        self.generator.manual_seed(seed)
        self._at = self._drawn = 0
        return self

    def take(self, count: int) -> Tensor:
        """Return ``(count,)`` int16, all values equally likely; valid until the next call."""
        words = -(-count // 4)
        if words > _CHUNK:
            self._fill(_CHUNK if self._drawn else 0)
            piece = self._draw(torch.empty(words, dtype=torch.int64, device=self._chunk.device))
        else:
            if self._at + words > _CHUNK:
                self._fill(_CHUNK)  # discarded, so that the next chunk begins at its fixed offset
                self._at = self._drawn = 0
            if self._at + words > self._drawn:
                self._fill(min(max(self._at + words, 2 * self._drawn, _FIRST), _CHUNK))
            piece = self._chunk[self._at : self._at + words]
            self._at += words
        return piece.view(torch.int16)[:count]

    def _fill(self, upto: int) -> None:
        if upto > self._drawn:
            self._draw(self._chunk[self._drawn : upto])
            self._drawn = upto

    def _draw(self, words: Tensor) -> Tensor:
        return words.random_(-(2**63), None, generator=self.generator)


def kept(counts: Sequence[int], chances: Sequence[float], bits: Sequence[Bits], like: Tensor) -> Tensor:
    """Return zeros where an element is dropped and ones elsewhere, ``(sum(counts),)``, slot after slot.

    Args:
        counts: elements of each slot.
        chances: probability in [0, 1) to drop, of each slot; rounded to 1/65536. Zero draws nothing.
        bits: random bits of each slot.
        like: tensor whose device and type the mask has.
    """
    mask = torch.empty(sum(counts), dtype=like.dtype, device=like.device)
    for part, count, chance, source in zip(mask.split(list(counts)), counts, chances, bits, strict=True):
        if chance:
            # Compared right into a float mask: three times faster than into a bool one, and multiplying by it is nine
            # times faster than masked_fill.
            torch.ge(source.take(count), math.floor(chance * 65536 + 0.5) - 32768, out=part)
        else:
            part.fill_(1.0)
    return mask
