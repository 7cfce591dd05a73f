"""Training pool of a trial: real images, with a bank's synthetic images or repeated real ones mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lungtune.core.synthetic import DUPLICATES, Settings, extra
from lungtune.errors import DataError
from lungtune.layers.layout import derive_seed
from lungtune.layers.losses import class_weights

_DUPLICATES = 5
"""Purposes of its random streams, in addition to those of ``engine.trial_state``."""


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of a trial.

    Attributes:
        first: the sample it begins with.
        pool: int64 ``(P,)`` on the CPU, indices into the real images followed by the synthetic ones; an image may stand
            there more than once. The pool is iterated in shuffled passes until the next phase.
        weights: class weights ``(classes,)``, on the device, of the pool's own frequencies; None without classes.
    """

    first: int
    pool: Tensor
    weights: Tensor | None


class TrainingPool:
    """All cases a pack can train on, by their labels.

    Args:
        count: real training cases, N.
        labels: theirs, int ``(N,)``; None where cases have no single label: then all weigh the same and none is added.
        further: labels ``(M,)`` of synthetic cases, or None; those of a class in the bank's order.
        classes: class names.
        device: device of the class weights.

    Raises:
        ValueError: there is no case, or not one label a case.
    """

    def __init__(
        self,
        count: int,
        labels: np.ndarray | None,
        further: np.ndarray | None,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        if not count or (labels is not None and len(labels) != count):
            count_of_labels = "none" if labels is None else len(labels)
            raise ValueError(f"one label a case must be given, but got {count} cases and {count_of_labels} labels")
        self._classes, self._device, self._count = tuple(classes), device, count
        known = [] if labels is None else [labels] if further is None else [labels, further]
        self._labels = torch.cat([torch.as_tensor(each, dtype=torch.int64) for each in known]) if known else None
        self._real = torch.arange(self._count)

    def phases(self, params: Any, seed: int, horizon: int) -> tuple[Phase, ...]:
        """Return a trial's phases. Its length is ``horizon``, independent of the images added.

        Args:
            params: the family's ``Params``.
            seed: the trial's; it determines the choice of duplicates where not all are taken.
            horizon: samples of the maximum fidelity.

        Raises:
            DataError: there are fewer synthetic images than the trial needs.
        """
        settings = Settings.of(params)
        if self._labels is None and settings.adds:
            raise DataError("synthetic images are added class by class, so every case must have one label.")
        more = self._more(settings, seed) if settings.adds else self._real[:0]
        begin = round(horizon * settings.ratio / (1 + settings.ratio)) if settings.use == "pretrain" else 0
        pools = [(0, torch.cat([self._real, more]) if len(more) else self._real)]
        if len(more) and settings.use == "pretrain":
            pools = [(0, more), (begin, self._real)] if begin else [(0, self._real)]
        weighting = getattr(params, "class_weighting", "none")
        return tuple(Phase(first, pool, self._weights(pool, weighting)) for first, pool in pools)

    def _weights(self, pool: Tensor, weighting: str) -> Tensor | None:
        if self._labels is None:
            return None
        labels = self._labels[: self._count] if pool is self._real else self._labels[pool]
        return class_weights(labels, len(self._classes), weighting).to(self._device)

    def _more(self, settings: Settings, seed: int) -> Tensor:
        assert self._labels is not None  # additional images are drawn by class
        real = self._labels[: self._count]
        counts = torch.bincount(real, minlength=len(self._classes)).tolist()
        wanted = extra(counts, settings.ratio, settings.balance)
        source = self._duplicates if settings.images == DUPLICATES else self._generated
        return torch.cat([source(label, count, settings, seed) for label, count in enumerate(wanted)])

    def _generated(self, label: int, count: int, settings: Settings, seed: int) -> Tensor:
        """The bank's first images of a class, so that larger ratios hold smaller ones."""
        assert self._labels is not None
        held = (self._labels[self._count :] == label).nonzero().squeeze(1)[:count]
        if len(held) < count:
            raise DataError(
                f"synthetic_ratio {settings.ratio:g} needs {count} synthetic images of {self._classes[label]}, but "
                f"there are {len(held)}; name a bank that holds as many with --bank."
            )
        return held + self._count

    def _duplicates(self, label: int, count: int, settings: Settings, seed: int) -> Tensor:
        """As many real images of a class, each as often as any other, give or take one."""
        assert self._labels is not None
        own = (self._labels[: self._count] == label).nonzero().squeeze(1)
        if count and not len(own):
            raise DataError(f"there is no training image of {self._classes[label]} to take again.")
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(derive_seed(seed, _DUPLICATES, label)))
        return own[order].repeat(-(-count // max(1, len(own))))[:count]
