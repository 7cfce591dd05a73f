"""Training pool of a trial: real images, with a bank's synthetic images, repeated real ones or SMOTE's mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lungtune.core import imbalance
from lungtune.core.synthetic import DUPLICATES, Settings, extra
from lungtune.errors import DataError
from lungtune.inputs import smote
from lungtune.layers.layout import derive_seed
from lungtune.layers.losses import class_weights

_DUPLICATES, _SMOTE = 5, 6
"""Purposes of its random streams, in addition to those of ``engine.trial_state``."""


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of a trial.

    Attributes:
        first: the sample it begins with.
        pool: int64 ``(P,)`` on the CPU, indices into the real images followed by the synthetic ones; an image may stand
            there more than once. The pool is iterated in shuffled passes until the next phase.
        weights: class weights ``(classes,)``, on the device, of the frequencies with which the classes of the pool are
            taken; None without classes.
        groups: places ``(n,)`` of each class in the pool where classes are taken equally often; () where every place
            is taken once a pass.
        partners: neighbour ``(P,)`` of each image, and the share of the way to it ``(P,)`` at which SMOTE's row lies; 0
            for images as they are. None where there are no such rows.
    """

    first: int
    pool: Tensor
    weights: Tensor | None
    groups: tuple[Tensor, ...] = ()
    partners: tuple[Tensor, Tensor] | None = None


class TrainingPool:
    """All cases a pack can train on, by their labels.

    Args:
        count: real training cases, N.
        labels: theirs, int ``(N,)``; None where cases have no single label: then all weigh the same and none is added.
        further: labels ``(M,)`` of synthetic cases, or None; those of a class in the bank's order.
        classes: class names.
        device: device of the class weights.
        neighbours: of the real cases, for SMOTE; None for families without.

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
        neighbours: smote.Neighbours | None = None,
    ) -> None:
        if not count or (labels is not None and len(labels) != count):
            count_of_labels = "none" if labels is None else len(labels)
            raise ValueError(f"one label a case must be given, but got {count} cases and {count_of_labels} labels")
        self._classes, self._device, self._count = tuple(classes), device, count
        self._neighbours = neighbours
        known = [] if labels is None else [labels] if further is None else [labels, further]
        self._labels = torch.cat([torch.as_tensor(each, dtype=torch.int64) for each in known]) if known else None
        self._real = torch.arange(self._count)

    def phases(self, params: Any, seed: int, horizon: int) -> tuple[Phase, ...]:
        """Return a trial's phases. Its length is ``horizon``, independent of the images added.

        Args:
            params: the family's ``Params``.
            seed: the trial's; it determines the choice of duplicates where not all are taken, and SMOTE's rows.
            horizon: samples of the maximum fidelity.

        Raises:
            DataError: there are fewer synthetic images than the trial needs, or cases have no single label.
            SpaceError: explicit class weights do not fit the classes, or a class has too few images for SMOTE.
        """
        settings = Settings.of(params)
        weighting = getattr(params, "class_weighting", "none")
        balanced = getattr(params, "sampling", "natural") == "balanced"
        interpolates, most = getattr(params, "smote", False), getattr(params, "smote_neighbours", 0)
        if self._labels is None and (balanced or interpolates):
            raise DataError("sampling=balanced and smote need classes, so every case must have one label.")
        if self._labels is None and settings.adds:
            raise DataError("synthetic images are added class by class, so every case must have one label.")
        more = self._more(settings, seed) if settings.adds else self._real[:0]
        begin = round(horizon * settings.ratio / (1 + settings.ratio)) if settings.use == "pretrain" else 0
        pools = [(0, torch.cat([self._real, more]) if len(more) else self._real)]
        if len(more) and settings.use == "pretrain":
            pools = [(0, more), (begin, self._real)] if begin else [(0, self._real)]
        phases = []
        for first, pool in pools:
            whole, partners = self._interpolated(pool, most, seed) if interpolates else (pool, None)
            groups = self._groups(whole) if balanced else ()
            phases.append(Phase(first, whole, self._weights(whole, weighting, balanced), groups, partners))
        return tuple(phases)

    def _of(self, pool: Tensor) -> Tensor:
        """Return the labels ``(P,)`` of a pool."""
        assert self._labels is not None
        return self._labels[: self._count] if pool is self._real else self._labels[pool]

    def _weights(self, pool: Tensor, weighting: str, balanced: bool) -> Tensor | None:
        if self._labels is None:
            return None
        labels = self._of(pool)
        labels = labels.unique() if balanced else labels  # taken equally often
        explicit = imbalance.weights(weighting, self._classes)
        return class_weights(labels, len(self._classes), explicit or weighting).to(self._device)

    def _groups(self, pool: Tensor) -> tuple[Tensor, ...]:
        labels = self._of(pool)
        return tuple((labels == label).nonzero().squeeze(1) for label in labels.unique().tolist())

    def _interpolated(self, pool: Tensor, most: int, seed: int) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return a pool of real images with SMOTE's rows, up to the size of its largest class, and their partners."""
        if not bool((pool < self._count).any()):
            return pool, None
        assert self._labels is not None
        assert self._neighbours is not None
        real = self._labels[: self._count]
        of_real = torch.bincount(real, minlength=len(self._classes)).tolist()
        imbalance.check_smote(dict(zip(self._classes, of_real, strict=True)))
        counts = torch.bincount(self._of(pool), minlength=len(self._classes)).tolist()
        bases, others, shares = [pool], [pool], [torch.zeros(len(pool))]
        for label, count in enumerate(counts):
            if of_real[label] and count < max(counts):
                cases = (real == label).nonzero().squeeze(1)
                drawn = smote.synthetic(
                    self._neighbours.of(label), cases, max(counts) - count, most, derive_seed(seed, _SMOTE, label)
                )
                for each, values in zip((bases, others, shares), drawn, strict=True):
                    each.append(values)
        return torch.cat(bases), (torch.cat(others), torch.cat(shares))

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
