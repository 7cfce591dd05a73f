"""A batch: rows of several fields, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Batch(Mapping[str, Tensor]):
    """N rows of every field: a mapping of field name to tensor ``(N, ...)``.

    Images, volumes and masks are float in [0, 1], ``(N, C, H, W)`` or ``(N, C, D, H, W)``; a label int64 ``(N,)``;
    labels float ``(N, L)``: 0, ``UNCERTAIN``, 1, NaN where unknown; text tokens int64 ``(N, L)``; table columns float
    ``(N, K)``. What a family's ``features`` returned replaces the inputs.

    Args:
        values: the fields.
        known: name -> bool ``(N,)``, which rows have a field that some cases lack.
        weights: float ``(N,)``, each row's class weight; None where nothing is trained.
    """

    def __init__(
        self, values: Mapping[str, Tensor], known: Mapping[str, Tensor] | None = None, weights: Tensor | None = None
    ) -> None:
        self._values = dict(values)
        self._known = dict(known or {})
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(next(iter(self._values.values())))

    @property
    def weights(self) -> Tensor:
        """Class weight ``(N,)`` of each row; ones where there are no classes or nothing is trained."""
        if self._weights is None:
            first = next(iter(self._values.values()))
            return torch.ones(len(first), device=first.device)
        return self._weights

    def has(self, name: str) -> Tensor:
        """Return which rows have a field, bool ``(N,)``."""
        if name in self._known:
            return self._known[name]
        first = next(iter(self._values.values()))
        return torch.full((len(first),), name in self._values, device=first.device)

    def select(self, rows: slice) -> Batch:
        """Return some rows of every field."""
        cut = lambda each: {name: value[rows] for name, value in each.items()}  # noqa: E731
        return Batch(cut(self._values), cut(self._known), None if self._weights is None else self._weights[rows])

    def complete(self, rows: slice) -> bool:
        """True if every optional field is present in at least one of these rows."""
        return all(bool(each[rows].any()) for each in self._known.values())

    def replaced(self, names: Any, values: Mapping[str, Tensor], weights: Tensor | None = None) -> Batch:
        """Return the batch with ``values`` in place of the fields ``names``, and with other weights if not None."""
        rest = {name: value for name, value in self._values.items() if name not in names}
        return Batch({**values, **rest}, self._known, self._weights if weights is None else weights)
