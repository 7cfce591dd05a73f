"""Field columns for the training loop, on the device or memory-mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lungtune.core.fields import Field

_UPLOAD = 512
"""Rows sent to a device at a time, so that a memory map need not be read whole."""

_TYPES = {
    "image": np.uint8,
    "volume": np.uint8,
    "mask": np.uint8,
    "label": np.int64,
    "labels": np.float32,
    "text": np.int64,
    "table": np.float32,
}
_SPATIAL = {"image": 4, "volume": 5}


class Column:
    """A field of N cases.

    Args:
        field: its kind decides what ``take`` delivers.
        values: ``(N, ...)``, numpy, may be a read-only memory map: uint8 pixels and masks, int labels and tokens, float
            labels and table columns.
        device: on CUDA all values are kept there; on the CPU they stay where they are.

    Raises:
        ValueError: another type or rank.
    """

    def __init__(self, field: Field, values: np.ndarray, device: torch.device) -> None:
        wanted, rank = _TYPES[field.kind], _SPATIAL.get(field.kind)
        if field.spatial and (values.dtype != wanted or (rank and values.ndim != rank)):
            shape = "(N, C, H, W)" if field.kind == "image" else "(N, C, D, H, W)" if rank else "(N, 1, ...)"
            raise ValueError(f"{field.name} must be uint8 {shape}, but got {values.dtype} {tuple(values.shape)}")
        self.field = field
        self.device = device
        self._host = values if field.spatial else np.ascontiguousarray(values, dtype=wanted)
        self._resident: Tensor | None = None
        if device.type != "cpu":
            self._resident = torch.empty(
                values.shape, dtype=torch.from_numpy(self._host[:0].copy()).dtype, device=device
            )
            for first in range(0, len(values), _UPLOAD):
                chunk = np.array(self._host[first : first + _UPLOAD])
                self._resident[first : first + _UPLOAD] = torch.from_numpy(chunk)

    def __len__(self) -> int:
        return len(self._host)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one case."""
        return tuple(self._host.shape[1:])

    def take(self, index: Tensor) -> Tensor:
        """Return the rows ``index (n,)`` on the device; pixels and masks as float32 in [0, 1]."""
        if self._resident is None:
            picked = torch.from_numpy(self._host[index.cpu().numpy()])
        else:
            picked = self._resident[index.to(self.device)]
        return picked.float().div_(255.0) if self.field.spatial else picked

    def digest(self) -> str:
        """Return a hash of all values in their order."""
        sums = hashlib.blake2b(f"{self._host.dtype}{tuple(self._host.shape)}".encode(), digest_size=16)
        for first in range(0, len(self), _UPLOAD):
            sums.update(np.ascontiguousarray(self._host[first : first + _UPLOAD]).data)
        return sums.hexdigest()


def gather(index: Tensor, edge: int, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Tensor:
    """Return rows of the concatenation of two tables, without concatenating them.

    Args:
        index: ``(n,)`` on the CPU.
        edge: rows of the first table.
        first: indices ``(k,)`` to rows ``(k, ...)`` of the first table.
        second: the same of the second one.
    """
    far = index >= edge
    if not far.any():
        return first(index)
    if far.all():
        return second(index - edge)
    near, far = (~far).nonzero().squeeze(1), far.nonzero().squeeze(1)
    one, other = first(index[near]), second(index[far] - edge)
    rows = one.new_empty(len(index), *one.shape[1:])
    rows[near.to(one.device)], rows[far.to(one.device)] = one, other
    return rows
