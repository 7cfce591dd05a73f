"""What a trial trains on, and when: the real images, a bank's synthetic ones, or real ones over again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lungtune.core.synthetic import DUPLICATES, Settings, extra
from lungtune.errors import DataError
from lungtune.layers.layout import derive_seed
from lungtune.layers.losses import class_weights

_DUPLICATES = 5
"""What its random numbers are for, beside those of ``nn.member``."""


class Extra(Protocol):
    """Synthetic images: uint8 ``(M, H, W)`` and their labels ``(M,)``; those of a class in the bank's order."""

    @property
    def images(self) -> np.ndarray | Tensor:
        """The images."""

    @property
    def labels(self) -> np.ndarray | Tensor:
        """Their labels."""


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of a trial.

    Attributes:
        first: the sample it begins with.
        pool: int64 ``(P,)`` on the CPU, indices into the real images followed by the synthetic ones; an image may stand
            there more than once. The pool is passed again and again, shuffled, until the next phase.
        weights: class weights ``(classes,)``, on the device, of the pool's own frequencies.
    """

    first: int
    pool: Tensor
    weights: Tensor


class Supply:
    """All images a pack can train on, by their labels.

    Args:
        images: of the training fold, N of them.
        labels: theirs, ``(N,)``.
        synthetic: M further ones, or None.
        classes: class names.
        device: where labels and weights are wanted.

    Attributes:
        labels: int64 ``(N + M,)`` on the device, real ones first.

    Raises:
        ValueError: there are not as many labels as images, or none.
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        synthetic: Extra | None,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        given = [(images, labels)] if synthetic is None else [(images, labels), (synthetic.images, synthetic.labels)]
        if not len(labels) or any(len(one) != len(other) for one, other in given):
            counts = ", ".join(f"{len(other)}, {len(one)}" for one, other in given)
            raise ValueError(f"as many labels as images must be given, but got {counts}")
        self._classes, self._device, self._count = tuple(classes), device, len(labels)
        self._cpu = torch.cat([torch.as_tensor(each, dtype=torch.int64).cpu() for _, each in given])
        self._real = torch.arange(self._count)
        self.labels = self._cpu.to(device)

    def phases(self, params: Any, seed: int, horizon: int) -> tuple[Phase, ...]:
        """Return a trial's phases. Its length is ``horizon`` whatever it mixes in.

        Args:
            params: the family's ``Params``.
            seed: the trial's; which duplicates are taken where not all are follows from it.
            horizon: samples of the maximum fidelity.

        Raises:
            DataError: there are fewer synthetic images than the trial wants.
        """
        settings = Settings.of(params)
        more = self._more(settings, seed) if settings.adds else self._real[:0]
        begin = round(horizon * settings.ratio / (1 + settings.ratio)) if settings.use == "pretrain" else 0
        pools = [(0, torch.cat([self._real, more]) if len(more) else self._real)]
        if len(more) and settings.use == "pretrain":
            pools = [(0, more), (begin, self._real)] if begin else [(0, self._real)]
        return tuple(Phase(first, pool, self._weights(pool, params.class_weighting)) for first, pool in pools)

    def _weights(self, pool: Tensor, weighting: str) -> Tensor:
        labels = self._cpu[: self._count] if pool is self._real else self._cpu[pool]
        return class_weights(labels, len(self._classes), weighting).to(self._device)

    def _more(self, settings: Settings, seed: int) -> Tensor:
        real = self._cpu[: self._count]
        counts = torch.bincount(real, minlength=len(self._classes)).tolist()
        wanted = extra(counts, settings.ratio, settings.balance)
        source = self._duplicates if settings.images == DUPLICATES else self._generated
        return torch.cat([source(label, count, settings, seed) for label, count in enumerate(wanted)])

    def _generated(self, label: int, count: int, settings: Settings, seed: int) -> Tensor:
        """The bank's first images of a class, so that larger ratios hold smaller ones."""
        held = (self._cpu[self._count :] == label).nonzero().squeeze(1)[:count]
        if len(held) < count:
            raise DataError(
                f"synthetic_ratio {settings.ratio:g} needs {count} synthetic images of {self._classes[label]}, but "
                f"there are {len(held)}; name a bank that holds as many with --bank."
            )
        return held + self._count

    def _duplicates(self, label: int, count: int, settings: Settings, seed: int) -> Tensor:
        """As many real images of a class, each as often as any other, give or take one."""
        own = (self._cpu[: self._count] == label).nonzero().squeeze(1)
        if count and not len(own):
            raise DataError(f"there is no training image of {self._classes[label]} to take again.")
        order = torch.randperm(len(own), generator=torch.Generator().manual_seed(derive_seed(seed, _DUPLICATES, label)))
        return own[order].repeat(-(-count // max(1, len(own))))[:count]
