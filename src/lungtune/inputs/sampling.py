"""Order in which a trial takes its training cases, and what inputs read of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lungtune.layers.layout import derive_seed


class Sampled(Protocol):
    """A trial whose next batch is being put together (:class:`lungtune.engine.trial_state.TrialState`)."""

    params: Any

    def augmentation(self) -> torch.Generator:
        """Return the generator of this step's augmentation."""

    def views(self, count: int) -> Tensor:
        """Return the view index in [0, ``count``) of each case of the next batch, ``(batch_size,)``."""


def balanced(groups: Sequence[Tensor], size: int, number: int, *seed: int) -> tuple[Tensor, Tensor]:
    """Return one pass of class-balanced sampling, before it is shuffled: classes take turns.

    Each class goes through its own cases in rounds, a new permutation each, that run on from pass to pass: over any
    number of passes classes are taken equally often, give or take one, and so are the cases of a class.

    Args:
        groups: the cases of each class, int64 ``(n,)``, none empty.
        size: cases of a pass.
        number: of the pass, from 0.
        seed: the permutations follow from these numbers.

    Returns:
        The cases ``(size,)``, and how often each was taken before, ``(size,)``.
    """
    turn = number * size + torch.arange(size)
    owner, taken = turn % len(groups), turn // len(groups)
    cases, rounds = torch.empty_like(turn), torch.empty_like(turn)
    for place, group in enumerate(groups):
        mine = owner == place
        begun = taken[mine] // len(group)
        shuffled = [
            group[torch.randperm(len(group), generator=torch.Generator().manual_seed(derive_seed(*seed, place, each)))]
            for each in begun.unique().tolist()  # consecutive
        ]
        if shuffled:
            within = taken[mine] - begun[0] * len(group)
            cases[mine], rounds[mine] = torch.cat(shuffled)[within], begun
    return cases, rounds
