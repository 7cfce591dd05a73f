"""SMOTE: features of rare classes, interpolated between neighbours of one class (Chawla et al. 2002).

"SMOTE: Synthetic Minority Over-sampling Technique", arXiv 1106.1813. A synthetic row has a base, one of its k nearest
neighbours and a share in [0, 1), all drawn once for a trial: x + share * (neighbour - x). Neighbours are those of the
features as they are; where features have augmented views, base and neighbour are taken in the view of the pass.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lungtune.core.io import stage
from lungtune.inputs.batch import Batch
from lungtune.inputs.sampling import Sampled
from lungtune.layers.layout import derive_seed

MOST = 20
"""Nearest neighbours that are kept of a case."""

_BLOCK = 1024
"""Cases whose distances to all others of their class are computed at a time."""


class Inputs(Protocol):
    """The model inputs of a part (:mod:`lungtune.inputs.feature_cache`)."""

    @property
    def stride(self) -> int:
        """Suitable number of cases at a time."""

    def take(self, chosen: Sequence[Tensor], trials: Sequence[Sampled]) -> Batch:
        """Return a step's batch."""

    def plain(self, first: int, last: int) -> Batch:
        """Return cases without augmentation, inputs or features alone."""


class Mixed(Sampled, Protocol):
    """A trial whose batches may have interpolated rows."""

    def partners(self) -> tuple[Tensor, Tensor] | None:
        """Return the neighbour of each case of the next batch, and the share of the way to it; None: none has any."""


class Neighbours:
    """Nearest training cases of the same class, computed at first use of a class.

    Args:
        inputs: of the training fold; its first N cases are those of ``labels``.
        labels: int ``(N,)``.
    """

    def __init__(self, inputs: Inputs, labels: np.ndarray) -> None:
        self._inputs, self._labels = inputs, torch.as_tensor(labels, dtype=torch.int64)
        self._known: dict[int, Tensor] = {}

    def of(self, label: int) -> Tensor:
        """Return, of each case of a class, the nearest others first, int64 ``(n, min(MOST, n - 1))`` on the CPU.

        Distances are Euclidean, over all features of a case.
        """
        if label not in self._known:
            cases = (self._labels == label).nonzero().squeeze(1)
            with stage("Finding the neighbours of a rare class"):
                self._known[label] = cases[nearest(self._features(cases), min(MOST, len(cases) - 1))]
        return self._known[label]

    def _features(self, cases: Tensor) -> Tensor:
        """Return the features of some cases as float32 ``(n, D)``, on the device."""
        rows = []
        for first in range(0, len(self._labels), self._inputs.stride):
            last = min(first + self._inputs.stride, len(self._labels))
            inside = cases[(cases >= first) & (cases < last)] - first
            if len(inside):
                values = self._inputs.plain(first, last).values()
                rows.append(torch.cat([value[inside.to(value.device)].flatten(1).float() for value in values], 1))
        return torch.cat(rows)


def nearest(rows: Tensor, count: int) -> Tensor:
    """Return the ``count`` nearest other rows of each row of ``rows (n, D)``, int64 ``(n, count)`` on the CPU."""
    chosen = []
    for first in range(0, len(rows), _BLOCK):
        distances = torch.cdist(rows[first : first + _BLOCK], rows)
        own = torch.arange(len(distances), device=rows.device)
        distances[own, own + first] = torch.inf
        chosen.append(distances.topk(count, largest=False).indices.cpu())
    return torch.cat(chosen)


def synthetic(neighbours: Tensor, cases: Tensor, count: int, most: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw synthetic rows of a class: base and neighbour, indices ``(count,)``, and share ``(count,)`` float32.

    Every case is a base as often as any other, give or take one.

    Args:
        neighbours: see :meth:`Neighbours.of`.
        cases: the indices ``(n,)`` of the class.
        count: number of rows.
        most: nearest neighbours to choose among.
        seed: everything drawn follows from it.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(cases), generator=generator).repeat(-(-count // len(cases)))[:count]
    which = torch.randint(min(most, neighbours.shape[1]), (count,), generator=generator)
    return cases[order], neighbours[order, which], torch.rand(count, generator=generator)


def interpolated(
    batch: Batch, inputs: Inputs, trials: Sequence[Mixed], rows: Sequence[slice], targets: Collection[str]
) -> Batch:
    """Return a step's batch with the features of synthetic rows in place of their bases'.

    Args:
        batch: what ``inputs.take`` returned, bases in place of synthetic rows.
        inputs: of the training fold.
        trials: those of the batch.
        rows: rows of each trial in the batch.
        targets: names of fields that are not interpolated.
    """
    places, cases, shares, partners = [], [], [], []
    for trial, own in zip(trials, rows, strict=True):
        of_batch = trial.partners()
        if of_batch is not None and len(chosen := of_batch[1].nonzero().squeeze(1)):
            places.append(chosen + own.start)
            cases.append(of_batch[0][chosen])
            shares.append(of_batch[1][chosen])
            partners.append(_Partner(trial, chosen))
    if not places:
        return batch
    others = inputs.take(cases, partners)
    place, share, changed = torch.cat(places), torch.cat(shares), {}
    for name, values in batch.items():
        if name not in targets:
            at = place.to(values.device)
            weight = share.to(values).view(-1, *[1] * (values.ndim - 1))
            changed[name] = values.index_copy(0, at, torch.lerp(values[at], others[name], weight))
    return batch.replaced(changed, changed)


class _Partner:
    """The neighbours of some rows of a trial's batch, seen in the views of their bases."""

    def __init__(self, trial: Sampled, chosen: Tensor) -> None:
        self.params = trial.params
        self._trial, self._chosen = trial, chosen

    def augmentation(self) -> torch.Generator:
        """Return the generator of their augmentation, apart from the bases'."""
        generator = self._trial.augmentation()
        return generator.manual_seed(derive_seed(generator.initial_seed(), 1))

    def views(self, count: int) -> Tensor:
        """Return the view index in [0, ``count``) of each."""
        return self._trial.views(count)[self._chosen]
