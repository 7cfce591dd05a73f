"""Inputs augmented in every step, without a feature cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lungtune.core.fields import Field
from lungtune.inputs.augmentation import augment
from lungtune.inputs.batch import Batch
from lungtune.inputs.columns import Column, gather
from lungtune.inputs.sampling import Sampled


class Compute(Protocol):
    """A family's ``features`` of a batch of inputs, on the device; so many cases together, or as many as usual."""

    def __call__(self, values: Mapping[str, Tensor], together: int = 0, /) -> Mapping[str, Tensor]: ...


class OnTheFlyInputs:
    """Batches of one part of the data.

    Args:
        columns: the part's fields, inputs and targets.
        known: field name -> bool ``(N,)`` on the device, which cases have it.
        inputs: names of the fields that go into ``compute``.
        compute: its return value replaces the inputs.
        further: columns of synthetic cases, whose indices follow on; fields they lack are 0 and not known.

    Attributes:
        stride: suitable number of cases to score at a time.
    """

    stride = 64

    def __init__(
        self,
        columns: Mapping[str, Column],
        known: Mapping[str, Tensor],
        inputs: Sequence[str],
        compute: Compute,
        further: Mapping[str, Column] | None = None,
    ) -> None:
        self._columns, self._further = columns, further
        self._inputs, self._compute = tuple(inputs), compute
        self._known = dict(known)
        self._count = len(next(iter(columns.values())))
        if further is not None:
            more = len(next(iter(further.values())))
            for name, column in columns.items():
                mine = self._known.get(name, torch.ones(self._count, dtype=torch.bool, device=column.device))
                if name in self._known or name not in further:
                    others = torch.full((more,), name in further, device=column.device)
                    self._known[name] = torch.cat([mine, others])

    def __len__(self) -> int:
        return self._count + (len(next(iter(self._further.values()))) if self._further else 0)

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields."""
        return tuple(column.field for column in self._columns.values())

    def take(self, chosen: Sequence[Tensor], trials: Sequence[Sampled]) -> Batch:
        """Return a step's batch, augmented at each trial's level.

        Args:
            chosen: indices ``(n_i,)`` of each trial's cases, on the CPU.
            trials: the trials.
        """
        index = torch.cat(list(chosen))
        values = {name: self._rows(name, index) for name in self._columns}
        spatial = [field for field in self.fields if field.spatial]
        levels = [trial.params.augmentation for trial in trials]
        counts = [len(each) for each in chosen]
        values |= augment(values, spatial, levels, counts, [trial.augmentation() for trial in trials])
        return self._batch(values, index)

    def plain(self, first: int, last: int, targets: Sequence[str] = ()) -> Batch:
        """Return cases ``first`` to ``last`` as they are: inputs, and of the targets those named only."""
        index = torch.arange(first, last)
        names = [name for name in self._columns if name in self._inputs or name in targets]
        return self._batch({name: self._rows(name, index) for name in names}, index)

    def _batch(self, values: dict[str, Tensor], index: Tensor) -> Batch:
        known = {name: each[index.to(each.device)] for name, each in self._known.items() if name in values}
        computed = self._compute({name: values[name] for name in self._inputs})
        return Batch(values, known).replaced(self._inputs, computed)

    def _rows(self, name: str, index: Tensor) -> Tensor:
        column = self._columns[name]
        if self._further is None:
            return column.take(index)
        other = self._further.get(name)

        def second(rows: Tensor) -> Tensor:
            if other is not None:
                return other.take(rows)
            like = column.take(torch.zeros(1, dtype=torch.int64))
            return like.new_zeros(len(rows), *like.shape[1:])

        return gather(index, self._count, column.take, second)
