"""Layout of a concatenated batch: the rows of each trial and its per-step settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from lungtune.layers.dropout import Bits, kept

_MASK64 = (1 << 64) - 1
_PARTS = "parts of the batch so far"


def derive_seed(*numbers: int) -> int:
    """Return a 63-bit seed that is a function of ``numbers`` and of their order (splitmix64 finaliser)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        state = (state + (number & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


@dataclass(frozen=True)
class Group:
    """Neighbouring slots with equally many rows: one batched product serves them all.

    Attributes:
        slots: range of positions within the layout.
        rows: range of rows within the batch.
        each: rows of one slot.
    """

    slots: slice
    rows: slice
    each: int

    @property
    def size(self) -> int:
        """Number of slots."""
        return self.slots.stop - self.slots.start


class LayoutContext:
    """Holder of the current batch's layout, shared by all slot-aware layers of one pack."""

    def __init__(self) -> None:
        self.layout: BatchLayout | None = None

    @contextmanager
    def using(self, layout: BatchLayout | None) -> Iterator[None]:
        """Set the layers' layout inside the ``with`` block; None switches all adapters off."""
        before, self.layout = self.layout, layout
        try:
            yield
        finally:
            self.layout = before


@dataclass
class BatchLayout:
    """Layout of one concatenated batch.

    Rows of one slot are contiguous, slots follow each other in the order of ``places``.

    Attributes:
        places: each slot's index in the stacked parameters, ascending.
        counts: rows of each slot.
        params: each trial's ``Params``.
        bits: each trial's random bits for this step's dropout; empty when not training.
        context: where the layers look for the layout.
        training: True if dropout acts.
        whole: number of slots that the stacked parameters hold.
        memo: what a family computed once for as long as the weights stay as they are (an evaluation pass).
        stacked: all parameters of the pack ``(whole, *shape)``, by name.
        owned: names of each trial's own parameters.
        statistics: each trial's own statistics, by name.
        constants: what the tasks' losses know of the whole training part, by name (``Task.constants``).
    """

    places: tuple[int, ...]
    counts: tuple[int, ...]
    params: tuple[Any, ...]
    bits: tuple[Bits, ...]
    context: LayoutContext
    training: bool
    whole: int
    memo: dict[Any, Any] = field(default_factory=dict)
    stacked: Mapping[str, Tensor] = field(default_factory=dict)
    owned: tuple[tuple[str, ...], ...] = ()
    statistics: tuple[Mapping[str, Tensor], ...] = ()
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.groups: tuple[Group, ...] = tuple(_groups(self.counts))
        self.complete = self.places == tuple(range(self.whole))

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self.places)

    @property
    def rows(self) -> tuple[slice, ...]:
        """Rows of each slot."""
        return tuple(slice(a, b) for a, b in pairwise(accumulate(self.counts, initial=0)))

    @contextmanager
    def over(self, counts: Mapping[int, int]) -> Iterator[BatchLayout]:
        """Lay out another batch, such as the prompts of the text tower, for the layers inside the ``with`` block.

        Args:
            counts: rows by position in this layout (0 .. ``len(self) - 1``); slots left out have none.
        """
        chosen = sorted(i for i, n in counts.items() if n)
        inner = BatchLayout(
            places=tuple(self.places[i] for i in chosen),
            counts=tuple(counts[i] for i in chosen),
            params=tuple(self.params[i] for i in chosen),
            bits=tuple(self.bits[i] for i in chosen) if self.bits else (),
            context=self.context,
            training=self.training,
            whole=self.whole,
            memo=self.memo,
            stacked=self.stacked,
            owned=tuple(self.owned[i] for i in chosen) if self.owned else (),
            statistics=tuple(self.statistics[i] for i in chosen) if self.statistics else (),
            constants=self.constants,
        )
        with self.context.using(inner):
            yield inner

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Switch all adapters off inside the ``with`` block."""
        with self.context.using(None):
            yield

    def pick(self, stacked: Tensor) -> Tensor:
        """Return the entries ``(len(self), ...)`` of ``stacked (whole, ...)`` that belong to this layout's slots."""
        if self.complete:
            return stacked
        first, last = self.places[0], self.places[-1]
        if last - first + 1 == len(self.places):
            return stacked[first : last + 1]
        return stacked[list(self.places)]

    def parameter(self, name: str) -> Tensor:
        """Return the trials' own parameter ``(len(self), *shape)``, padded with zeros to the pack's largest."""
        return self.pick(self.stacked[name])

    def network(self, i: int) -> dict[str, Tensor]:
        """Return all parameters and statistics that the trial at position ``i`` trains, by name."""
        key = "unbound"
        if key not in self.memo:
            self.memo[key] = {name: tensor.unbind(0) for name, tensor in self.stacked.items()}
        return {name: self.memo[key][name][self.places[i]] for name in self.owned[i]} | dict(self.statistics[i])

    def drawing(self, i: int) -> int:
        """Return a seed for what the rows of the slot at position ``i`` draw in this pass, dropout of adapters apart.

        Every part of a batch that does not pass as a whole has its own.
        """
        part = self.memo[_PARTS, i] = self.memo.get((_PARTS, i), -1) + 1
        return self.bits[i].generator.initial_seed() + part

    def kept(self, x: Tensor, chances: Sequence[float]) -> Tensor | None:
        """Draw the dropout mask, one 0 or 1 per element; None if no slot drops or trains.

        Args:
            x: ``(N, ...)``, rows in this layout, in a shape independent of the pack's other trials: never padded.
            chances: probability in [0, 1) to drop, of each slot.
        """
        if not self.training or not any(chances):
            return None
        each = x[0].numel()
        return kept([each * count for count in self.counts], chances, self.bits, x)

    def dropout(self, x: Tensor, chances: Sequence[float]) -> Tensor:
        """Return ``x`` with elements dropped by each slot's own chance and the rest scaled up; see ``kept``."""
        mask = self.kept(x, chances)
        if mask is None:
            return x
        scale = torch.tensor([1.0 / (1.0 - p) for p in chances]).repeat_interleave(torch.tensor(self.counts))
        return x * mask.view_as(x) * scale.to(x.device, non_blocking=True).view(-1, *[1] * (x.ndim - 1))

    def matmul(self, x: Tensor, matrices: Tensor) -> Tensor:
        """Multiply each row by the matrix of the slot it belongs to.

        Args:
            x: ``(N, ..., i)``, rows in this layout.
            matrices: ``(len(self), i, o)``.

        Returns:
            ``(N, ..., o)``.
        """
        if len(self) == 1:
            return x @ matrices[0]
        parts = []
        for group in self.groups:
            part = x[group.rows]
            product = torch.bmm(part.reshape(group.size, -1, x.shape[-1]), matrices[group.slots])
            parts.append(product.view(*part.shape[:-1], -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def affine(self, x: Tensor, matrices: Tensor, biases: Tensor) -> Tensor:
        """Return ``x`` by the matrix and plus the bias of each row's slot; shapes as in ``matmul``.

        Args:
            x: ``(N, i)``.
            matrices: ``(len(self), i, o)``.
            biases: ``(len(self), o)``.
        """
        parts = []
        for group in self.groups:
            part = x[group.rows].view(group.size, group.each, -1)
            parts.append(torch.baddbmm(biases[group.slots].unsqueeze(1), part, matrices[group.slots]).flatten(0, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def means(self, x: Tensor) -> Tensor:
        """Return ``(len(self),)``: the mean of each slot's rows of ``x (N,)``."""
        return torch.cat([x[group.rows].view(group.size, -1).mean(1) for group in self.groups])


def _groups(counts: Sequence[int]) -> Iterator[Group]:
    first = row = 0
    for i in range(1, len(counts) + 1):
        if i == len(counts) or counts[i] != counts[first]:
            end = row + (i - first) * counts[first]
            yield Group(slice(first, i), slice(row, end), counts[first])
            first, row = i, end
