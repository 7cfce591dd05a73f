"""State of one trial inside a pack: settings, position, random streams."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.core.family import Family
from lungtune.engine.optim import Update, rate
from lungtune.errors import CheckpointError
from lungtune.inputs import sampling
from lungtune.inputs.training_pool import Phase
from lungtune.layers import lora
from lungtune.layers.dropout import Bits
from lungtune.layers.layout import derive_seed

_ORDER, _AUGMENT, _DROPOUT, _INIT, _VIEW = range(5)
_BALANCED = 7
"""Purposes of random numbers; each has its own stream. Others are in ``inputs.training_pool``."""

_PROGRESS = "progress"
_STATISTICS = "statistics."

VERIFY_STEPS = 10
"""Steps after which everything a trial trains must have got a gradient; its adapters must have in the first. Where
masks are wanted, steps that saw one."""

State = Mapping[str, Tensor]

_Turn = tuple[int, Tensor, Tensor]
"""Phase, the places ``(n,)`` in its pool that are taken, and how often each was taken before ``(n,)``."""


class TrialState:
    """A trial's place in the schedule.

    Args:
        params: the family's ``Params``.
        seed: everything random follows from it and from the step or pass.
        horizon: samples of the maximum fidelity.
        adapters: what it adapts, by name of the layer.
        phases: what it trains on, one after another.
        device: where augmentation and dropout are drawn.
    """

    def __init__(
        self,
        params: Any,
        seed: int,
        horizon: int,
        adapters: Mapping[str, lora.Adapter],
        phases: Sequence[Phase],
        device: torch.device,
    ) -> None:
        self.params = params
        self.seed = seed
        self.adapters = adapters
        self.phases = phases
        self.steps = 0
        self.samples = 0
        self.ungradiented: list[str] = []
        self.verify_steps = VERIFY_STEPS
        self.lr_multipliers: Mapping[str, float] = {}
        self.statistics: dict[str, Tensor] = {}
        self.own: tuple[str, ...] = ()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._total = max(1, math.ceil(horizon / params.batch_size))
        self._order: tuple[tuple[int, int], tuple[Tensor, Tensor]] | None = None
        self._first: tuple[int, Tensor] | None = None
        self._next: tuple[int, list[_Turn]] | None = None
        self._augmentation = torch.Generator(device)
        self._bits = Bits(device)

    def begin(self, family: Family[Any, Any], model: nn.Module, classes: Sequence[str], state: State | None) -> State:
        """Return the weights and moments ``(3, *shape)`` to start or to resume from, by parameter.

        Args:
            family: the family.
            model: the backbone.
            classes: class names.
            state: to resume from; None to start.

        Raises:
            CheckpointError: ``state`` belongs to a trial with other parameters.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, _INIT))
        fresh: dict[str, Tensor] = {}
        for name, adapter in self.adapters.items():
            pair = lora.initial(lora.plain(model, name), adapter.rank, generator)
            fresh |= {f"{name}.{part}": value for part, value in zip(lora.PARTS, pair, strict=True)}
        drawn = family.trainable_parameters(model, self.params, classes, generator)
        fresh |= drawn
        self.own = tuple(drawn)
        self.ungradiented = [*(f"{name}.{lora.PARTS[1]}" for name in self.adapters), *self.own]
        self.lr_multipliers = family.lr_multipliers(model, self.params)
        self.shapes = {name: tuple(value.shape) for name, value in fresh.items()}
        fresh = {name: torch.stack([v, torch.zeros_like(v), torch.zeros_like(v)]) for name, v in fresh.items()}
        buffers = dict(model.named_buffers())
        names = family.statistics(model, self.params)
        if state is None:
            self.statistics = {name: buffers[name].clone() for name in names}
            return fresh
        wanted = {name: tuple(tensor.shape) for name, tensor in fresh.items()}
        wanted |= {_STATISTICS + name: tuple(buffers[name].shape) for name in names}
        wanted[_PROGRESS] = (2,)
        stored = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if stored != wanted:
            wrong = sorted({name for name, _ in stored.items() ^ wanted.items()})
            raise CheckpointError(f"a trial's state must fit its parameters, but these do not: {', '.join(wrong[:4])}")
        self.steps, self.samples = (int(n) for n in state[_PROGRESS])
        self.ungradiented = self.ungradiented if self.steps < VERIFY_STEPS else []
        self.verify_steps -= self.steps
        self.statistics = {name: state[_STATISTICS + name].to(buffers[name].device, copy=True) for name in names}
        return {name: state[name] for name in fresh}

    def progress(self) -> dict[str, Tensor]:
        """Return the state to store besides weights and moments: statistics, steps and samples."""
        kept = {_STATISTICS + name: tensor.clone() for name, tensor in self.statistics.items()}
        return {**kept, _PROGRESS: torch.tensor([self.steps, self.samples])}

    def batch(self) -> Tensor:
        """Return the indices ``(batch_size,)`` of the next batch's cases, real ones first, then the bank's.

        Every pass over a phase's pool is a permutation drawn from (seed, phase, pass), with class-balanced sampling of
        as many cases in which every class is equally frequent; a batch may run over the end of a pass, or of a phase,
        into the next.
        """
        return torch.cat([self.phases[phase].pool[places] for phase, places, _ in self._turns()])

    def partners(self) -> tuple[Tensor, Tensor] | None:
        """Return, of each case of the next batch, its neighbour and the share of the way to it, ``(batch_size,)``.

        None where the trial has no rows of SMOTE's.
        """
        if all(phase.partners is None for phase in self.phases):
            return None
        cases, shares = [], []
        for number, places, _ in self._turns():
            phase = self.phases[number]
            others, share = phase.partners or (phase.pool, torch.zeros(len(phase.pool)))
            cases.append(others[places])
            shares.append(share[places])
        return torch.cat(cases), torch.cat(shares)

    def views(self, count: int) -> Tensor:
        """Return the view index in [0, ``count``) of each image of the next batch, ``(batch_size,)``.

        A trial begins at a random view of each pool entry and advances by one whenever it is taken.
        """
        return torch.cat([self._begin(phase)[places] + before for phase, places, before in self._turns()]) % count

    def weights(self, labels: Tensor) -> Tensor | None:
        """Return the class weights ``(batch_size,)`` of the next batch's cases with the labels ``labels``.

        None where there are no classes.
        """
        weights = [phase.weights for phase in self.phases if phase.weights is not None]  # all or none
        if not weights:
            return None
        if len(weights) == 1:
            return weights[0][labels]
        turns = self._turns()
        parts = labels.split([len(places) for _, places, _ in turns])
        return torch.cat([weights[phase][part] for (phase, _, _), part in zip(turns, parts, strict=True)])

    def _turns(self) -> list[_Turn]:
        """Return the consecutive pool ranges of the next batch."""
        if self._next is None or self._next[0] != self.samples:
            turns, at, left = [], self.samples, self.params.batch_size
            while left:
                phase = max(i for i, each in enumerate(self.phases) if each.first <= at)
                number, offset = divmod(at - self.phases[phase].first, len(self.phases[phase].pool))
                until = [each.first for each in self.phases[phase + 1 :]][:1]
                ahead = slice(offset, offset + min([left, *(end - at for end in until)]))
                places, before = (each[ahead] for each in self._permuted(phase, number))
                turns.append((phase, places, before))
                at, left = at + len(places), left - len(places)
            self._next = self.samples, turns
        return self._next[1]

    def _permuted(self, phase: int, number: int) -> tuple[Tensor, Tensor]:
        """Return the places of a pass over a phase's pool, and how often each was taken before."""
        if self._order is None or self._order[0] != (phase, number):
            generator = torch.Generator().manual_seed(
                derive_seed(self.seed, _ORDER, number, *([phase] if phase else []))
            )
            groups, size = self.phases[phase].groups, len(self.phases[phase].pool)
            order = torch.randperm(size, generator=generator)
            if groups:
                places, before = sampling.balanced(groups, size, number, self.seed, _BALANCED, phase)
                self._order = (phase, number), (places[order], before[order])
            else:
                self._order = (phase, number), (order, torch.full_like(order, number))
        return self._order[1]

    def _begin(self, phase: int) -> Tensor:
        """Return the view with which each place of a phase's pool begins."""
        if self._first is None or self._first[0] != phase:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, _VIEW, *([phase] if phase else [])))
            self._first = phase, torch.randint(2**31, (len(self.phases[phase].pool),), generator=generator)
        return self._first[1]

    def augmentation(self) -> torch.Generator:
        """Return the generator of this step's augmentation."""
        return self._augmentation.manual_seed(derive_seed(self.seed, _AUGMENT, self.steps))

    def bits(self) -> Bits:
        """Return the bits of this step's dropout."""
        return self._bits.restart(derive_seed(self.seed, _DROPOUT, self.steps))

    def advance(self) -> Update:
        """Count a step; return its settings for the optimiser."""
        params = self.params
        lr = rate(
            self.samples // params.batch_size,  # the steps; by samples where an earlier segment had other batches
            peak=params.lr,
            total=self._total,
            warmup=params.warmup,
            schedule=params.lr_schedule,
            start=params.warmup_start,
            cosine=params.lr_cosine,
            every=params.lr_step,
            gamma=params.lr_gamma,
        )
        self.steps += 1
        self.samples += params.batch_size
        return Update(lr, params.weight_decay, self.steps, params.optimizer, params.momentum)


@contextmanager
def undone(members: Sequence[TrialState]) -> Iterator[None]:
    """Restore statistics when a step fails: the forward pass has changed them, and the step is repeated."""
    before = [{name: tensor.clone() for name, tensor in member.statistics.items()} for member in members]
    try:
        yield
    except BaseException:
        for member, statistics in zip(members, before, strict=True):
            member.statistics = statistics
        raise
