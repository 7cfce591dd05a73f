"""Parameters, gradients and optimiser state of a pack's trials, stacked over slots in one block of memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lungtune.engine.optim import OPTIMIZERS, Update

_ALIGN = 16
"""Entries start on multiples of this many floats (64 bytes), so that results do not depend on an entry's offset."""


@dataclass(frozen=True)
class Entry:
    """One parameter of the pack: its padded shape (one slot) and where it starts in a slot's row."""

    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of elements of one slot."""
        return math.prod(self.shape)


def padded(shapes: Sequence[Mapping[str, tuple[int, ...]]]) -> dict[str, tuple[int, ...]]:
    """Return the smallest shape of each parameter that holds it in every slot.

    Args:
        shapes: for each slot, the true shapes of what it has.
    """
    largest: dict[str, tuple[int, ...]] = {}
    for own in shapes:
        for name, shape in own.items():
            largest[name] = tuple(map(max, largest.get(name, shape), shape))
    return largest


class ParameterStack:
    """Four ``(K, P)`` matrices: values, first moments, second moments and gradients of K slots with P elements each.

    The meaning of the moments depends on a slot's optimiser: see ``lungtune.engine.optim``.

    One row holds all parameters of a slot, so the optimiser touches the whole pack with a dozen operations. An entry
    is a ``(K, *shape)`` view, padded with zeros to the largest trial's shape; padding gets no gradient and stays zero.

    Args:
        shapes: padded shape of each parameter for one slot.
        slots: K.
        device: where the block lives.
        scales: for each slot, factors on its learning rate by parameter; those not named have 1.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        slots: int,
        device: torch.device,
        scales: Sequence[Mapping[str, float]] = (),
    ) -> None:
        self.entries: dict[str, Entry] = {}
        end = 0
        for name, shape in shapes.items():
            self.entries[name] = Entry(shape, end)
            end += -(-math.prod(shape) // _ALIGN) * _ALIGN
        self.block = torch.zeros(3, slots, end, device=device)
        self.values, self.mean, self.square = self.block.unbind(0)
        # Apart from the values: autograd watches memory for changes between forward and backward.
        self.grads = torch.zeros(slots, end, device=device)
        self.parameters = {name: nn.Parameter(self._view(self.values, name)) for name in self.entries}
        self._grads = [self._view(self.grads, name) for name in self.entries]
        self._scales: Tensor | None = None
        if any(scales):
            self._scales = torch.ones(slots, end, device=device)
            for row, factors in zip(self._scales, scales, strict=True):
                for name, factor in factors.items():
                    row[self.entries[name].start :][: self.entries[name].size] = factor

    def differentiate(self, loss: Tensor, *, add: bool = False) -> None:
        """Fill ``grads`` with the gradient of a scalar, or add it; parameters it does not depend on get zero."""
        parameters = list(self.parameters.values())
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        (torch._foreach_add_ if add else torch._foreach_copy_)(self._grads, gradients)

    def step(self, places: Sequence[int], updates: Sequence[Update]) -> None:
        """Take one step of the slots at ``places`` (ascending); the others keep weights and moments.

        Neighbours with the same optimiser are stepped together.
        """
        stacks = (self.values, self.mean, self.square, self.grads)
        first = 0
        for end in range(1, len(places) + 1):
            kind = updates[first].optimizer
            if end == len(places) or places[end] != places[end - 1] + 1 or updates[end].optimizer != kind:
                rows = slice(places[first], places[end - 1] + 1)
                scales = None if self._scales is None else self._scales[rows]
                values, mean, square, grads = (stack[rows] for stack in stacks)
                OPTIMIZERS[kind](values, mean, square, grads, updates[first:end], scales)
                first = end

    def read(self, slot: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Return copies ``(3, *shape)`` of value and moments of one slot, cut to the true shapes."""
        return {name: self._own(slot, name, shape).clone() for name, shape in shapes.items()}

    def write(self, slot: int, state: Mapping[str, Tensor]) -> None:
        """Write what ``read`` returned to one slot."""
        for name, tensor in state.items():
            self._own(slot, name, tuple(tensor.shape[1:])).copy_(tensor)

    def ungradiented(self, slot: int, names: list[str]) -> list[str]:
        """Return those of ``names`` whose gradient is zero everywhere in one slot."""
        return [name for name in names if not self._view(self.grads, name)[slot].any()]

    def _own(self, slot: int, name: str, shape: tuple[int, ...]) -> Tensor:
        entry = self.entries[name]
        whole = self.block[:, slot, entry.start : entry.start + entry.size].view(3, *entry.shape)
        return whole[(slice(None), *(slice(n) for n in shape))]

    def _view(self, rows: Tensor, name: str) -> Tensor:
        entry = self.entries[name]
        return rows[:, entry.start : entry.start + entry.size].unflatten(1, entry.shape)
