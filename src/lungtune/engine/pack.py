"""Pack: K trials trained together over one frozen backbone.

The batches of all slots are concatenated; frozen layers run once on all rows, adapted layers apply each slot's
weights to its rows, and one optimiser step updates all slots. A trial's result is a function of its parameters, seed
and step; the other trials of the pack affect only the order of floating-point sums.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lungtune.core.family import Family
from lungtune.data.dataset import Part
from lungtune.engine import inference, memory
from lungtune.engine.backbone import Backbone
from lungtune.engine.parameter_stack import ParameterStack, padded
from lungtune.engine.trial_state import VERIFY_STEPS, TrialState, undone
from lungtune.errors import TrialError
from lungtune.inputs.batch import Batch
from lungtune.inputs.feature_cache import InputFactory
from lungtune.inputs.smote import Neighbours, interpolated
from lungtune.inputs.training_pool import TrainingPool
from lungtune.layers import lora
from lungtune.layers.layout import BatchLayout

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Last:
    """Latest predictions: their part, trial, (step, batch size), and values."""

    part: Part
    trial: TrialState
    when: tuple[int, int | None]
    predicted: dict[str, Tensor]


class Pack:
    """Trials that share a backbone, each in a slot of its own.

    Args:
        family: the model family.
        base: its ``Base``; equal for all trials of the pack.
        classes: class names, a label is an index into them; or ``core.fields.Labels``.
        train: training fold, with the family's fields.
        synthetic: further training cases, for trials that use them; never evaluated on.
        capacity: most slots at a time, >= 1.
        device: torch device.
        precision: ``fp32`` or ``bf16`` (autocast; adapters, moments and losses stay float32). Default: bf16 on CUDA,
            fp32 elsewhere.

    Raises:
        WeightsError: the pretrained weights are not available.
    """

    def __init__(
        self,
        family: Family[Any, Any],
        base: Any,
        classes: Sequence[str],
        train: Part,
        *,
        synthetic: Part | None = None,
        capacity: int,
        device: str | torch.device = "cpu",
        precision: str | None = None,
    ) -> None:
        self.family = family
        self.classes = classes if isinstance(classes, tuple) else tuple(classes)
        self.capacity = capacity
        self.device = torch.device(device)
        self._backbone = Backbone(family, base, classes, self.device, precision)
        self.model, self.precision = self._backbone.model, self._backbone.precision
        self._inputs = InputFactory(family, base, self.model, self._backbone.features, self.device, self.precision)
        self._train = self._inputs.of(train, synthetic)
        labels = train["label"] if "label" in train else None  # noqa: SIM401 (a Part is no dict)
        further = synthetic["label"] if synthetic is not None and "label" in synthetic else None
        constants = {name: array for task in family.tasks for name, array in task.constants(train).items()}
        self._constants = {name: torch.as_tensor(array, device=self.device) for name, array in constants.items()}
        neighbours = None if labels is None else Neighbours(self._train, labels)
        self._pool = TrainingPool(len(train), labels, further, classes, self.device, neighbours)
        self._targets = {field.name for field in family.fields} - {field.name for field in family.inputs}
        self.rows: int | None = None  # how many rows of a step fit into memory at a time; None: all
        self._trials: dict[int, TrialState] = {}  # in the order of their rows
        self._stack = ParameterStack({}, 0, self.device)
        self._last: _Last | None = None

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots that are taken, ascending."""
        return tuple(sorted(self._trials))

    def join(self, params: Any, *, seed: int, horizon: int, state: Mapping[str, Tensor] | None = None) -> int:
        """Add a trial; return its slot.

        Args:
            params: the family's ``Params``.
            seed: everything random in the trial follows from it.
            horizon: samples of the maximum fidelity: warm-up and cosine span these.
            state: what ``state`` returned, to resume from.

        Raises:
            SpaceError: a LoRA target matches no layer, or a setting for rare classes does not fit the classes.
            DataError: the trial needs more synthetic images than there are.
            CheckpointError: ``state`` belongs to a trial with other adapters.
            ValueError: the pack is full.
        """
        if len(self._trials) >= self.capacity:
            raise ValueError(f"a pack takes at most capacity={self.capacity} trials, and this one is full")
        adapters = lora.match(self.model, self.family.lora_targets(self.model, params))
        member = TrialState(params, seed, horizon, adapters, self._pool.phases(params, seed, horizon), self.device)
        start = member.begin(self.family, self.model, self.classes, state)
        slot = next(s for s in range(self.capacity) if s not in self._trials)
        self._settle({**self._trials, slot: member}, {slot: start})
        return slot

    def leave(self, slot: int) -> None:
        """Free a slot; the other trials are unaffected."""
        self._settle({s: m for s, m in self._trials.items() if s != slot}, {})

    def step(self, slots: Collection[int] | None = None) -> dict[int, float]:
        """Take one optimiser step of some slots, each on its own next batch; return the training loss of each.

        A loss may be NaN or infinite: that slot is broken, the others are not touched by it. When memory runs out,
        fewer rows pass at a time from then on (``rows``): first fewer slots, which changes nothing for any of them,
        then parts of one slot's batch, whose gradients are summed. Batch sizes stay unchanged.

        Args:
            slots: slots to train; default all. The others are unchanged.
        """
        waiting = [slot for slot in self._trials if slots is None or slot in slots]
        losses: dict[int, float] = {}
        while waiting:
            together = self._fitting(waiting)
            try:
                with undone([self._trials[slot] for slot in together]):
                    losses |= self._step(together)
                waiting = waiting[len(together) :]
                continue
            except (RuntimeError, MemoryError) as error:
                rows = sum(self._trials[slot].params.batch_size for slot in together)
                rows = min(rows, self.rows or rows)
                if not memory.exhausted(error) or rows == 1:
                    raise
            self.rows = rows // 2
            memory.release()
            _log.warning("memory ran out: %d rows of a step pass at a time from now on", self.rows)
        return losses

    def _fitting(self, slots: Sequence[int]) -> list[int]:
        """Return the first of ``slots`` that pass together, at least one."""
        sizes = accumulate(self._trials[slot].params.batch_size for slot in slots)
        return [slot for slot, size in zip(slots, sizes) if not self.rows or size <= self.rows] or [slots[0]]

    def _step(self, chosen: Sequence[int]) -> dict[int, float]:
        members = [self._trials[slot] for slot in chosen]
        batches = [m.batch() for m in members]
        slots = self._layout(chosen, [len(b) for b in batches], training=True)
        batch = interpolated(self._train.take(batches, members), self._train, members, slots.rows, self._targets)
        if "label" in batch:
            each_weights = (m.weights(batch["label"][rows]) for m, rows in zip(members, slots.rows, strict=True))
            weights = [one for one in each_weights if one is not None]  # all or none have classes
            batch = batch.replaced((), {}, torch.cat(weights) if weights else None)
        stack, size = self._stack, batch.size
        each = size if len(chosen) > 1 else min(size, self.rows or size)  # only a lone slot's batch is cut
        losses = torch.zeros(len(chosen), device=self.device)
        for first in range(0, size, each):
            rows = slice(first, min(first + each, size))
            part = slots if each == size else replace(slots, counts=(rows.stop - first,))
            with self._backbone.using(part):
                loss = part.means(self.family.losses(self.model, batch.select(rows), part))
            loss = loss * ((rows.stop - first) / size) if each < size else loss
            stack.differentiate(loss.sum(), add=first > 0)
            losses += loss.detach()
        for place, rows, member in zip(slots.places, slots.rows, members, strict=True):
            if member.ungradiented:
                member.ungradiented = stack.ungradiented(place, member.ungradiented)
                member.verify_steps -= batch.complete(rows)
        stack.step(slots.places, [m.advance() for m in members])
        return dict(zip(chosen, losses.tolist(), strict=True))

    def verify(self, slot: int) -> bool:
        """Check that the trial's steps reach everything it trains; call it after each, until it returns True.

        Adapters must have got a gradient in the first step that saw every target, other parameters within ten: some
        have to wait.

        Raises:
            TrialError: something got no gradient: it would never learn, and its axes of the search would be dead.
        """
        trial = self._trials[slot]
        due = trial.verify_steps <= 0
        began = trial.verify_steps < VERIFY_STEPS  # a batch without any target has no gradient to give
        missing = [name for name in trial.ungradiented if due or (began and name not in trial.own)]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise TrialError("error", f"all that trains must get a gradient, but {len(missing)} got none: {shown}")
        return due or not trial.ungradiented

    def finite(self, slot: int) -> bool:
        """True if all trained parameters are finite; the loss alone does not show it where it ignores NaN."""
        values = (self._stack.values[self._place(slot)], *self._trials[slot].statistics.values())
        return all(bool(value.isfinite().all()) for value in values)

    def samples(self, slot: int) -> int:
        """Return how many training images the trial has seen."""
        return self._trials[slot].samples

    def predict(
        self, part: Part, slots: Sequence[int] | None = None, *, batch_size: int | None = None
    ) -> dict[int, dict[str, Tensor]]:
        """Return predictions with the current weights: no augmentation, no dropout, every case once.

        One trial after the other, with its adapters merged: nothing of a step's fixed cost is left to share.

        Args:
            part: with the family's inputs, and the targets that its tasks compare with.
            slots: slots of the trials; default all.
            batch_size: cases at a time; by default as many as suit the inputs.

        Returns:
            For each slot, on the CPU, float32: what the family's tasks predict, ``(M, ...)`` by name.
        """
        return {slot: self._predict(part, slot, batch_size) for slot in (self.slots if slots is None else slots)}

    def _predict(self, part: Part, slot: int, batch_size: int | None) -> dict[str, Tensor]:
        """Return predictions; those of the latest call are cached, because each task of a family requests them."""
        trial, last = self._trials[slot], self._last
        if last is None or last.part is not part or last.trial is not trial or last.when != (trial.steps, batch_size):
            inputs = self._inputs.of(part)
            stride = batch_size or inputs.stride
            predictions = inference.predict(self.family, self.model, self._using(slot), inputs, stride)
            last = self._last = _Last(part, trial, (trial.steps, batch_size), predictions)
        return dict(last.predicted)

    def draw(self, slot: int, labels: Sequence[int], seeds: Sequence[int], stride: int) -> Tensor:
        """Draw images with a slot's current weights, ``stride`` at a time; see ``GenerativeFamily.draw``.

        Returns:
            uint8 ``(N, H, W)`` on the CPU.
        """
        return inference.draw(self.family, self.model, self._using(slot), labels, seeds, stride)

    def _using(self, slot: int) -> inference.Using:
        """Return a factory of contexts with so many rows of one slot; results per layout are cached in its memo."""
        memo: dict[Any, Any] = {}

        @contextmanager
        def using(rows: int) -> Iterator[BatchLayout]:
            layout = self._layout([slot], [rows], training=False, memo=memo)
            with torch.no_grad(), self._backbone.using(layout):
                yield layout

        return using

    @contextmanager
    def passing(self, slot: int, part: Part, most: int, *, training: bool) -> Iterator[tuple[Batch, BatchLayout]]:
        """Yield the first cases of a part as a batch, and their layout, which is set in the ``with`` block.

        Args:
            slot: slot whose weights are used.
            part: with all fields of the family.
            most: maximum number of cases.
            training: with all targets and with dropout; else with the targets that predictions compare with.
        """
        inputs, count = self._inputs.of(part), min(most, len(part))
        compared = [name for task in self.family.tasks for name in task.compared]
        batch = inputs.plain(0, count, [field.name for field in self.family.fields] if training else compared)
        layout = self._layout([slot], [count], training=training)
        with torch.set_grad_enabled(training), self._backbone.using(layout):
            yield batch, layout

    def state(self, slot: int) -> dict[str, Tensor]:
        """Return the state needed for an exact resume: weights with their moments ``(3, ...)``, and progress.

        It depends neither on the pack's size nor on the other trials' ranks.
        """
        member = self._trials[slot]
        return {**self._stack.read(self._place(slot), member.shapes), **member.progress()}

    def adapter(self, slot: int) -> dict[str, Tensor]:
        """Return what the trial trains, at its true shape, on the CPU; LoRA weights have PEFT's names."""
        member = self._trials[slot]
        state = {name: tensor[0].cpu() for name, tensor in self._stack.read(self._place(slot), member.shapes).items()}
        named = {n if n in member.own else f"base_model.model.{n}.weight": tensor for n, tensor in state.items()}
        return named | {name: tensor.cpu() for name, tensor in member.statistics.items()}

    def _place(self, slot: int) -> int:
        """Return a slot's index in the stacked parameters."""
        return list(self._trials).index(slot)

    def _settle(self, members: dict[int, TrialState], starts: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Rebuild the parameter stack for these members; ``starts`` are the initial weights of new ones."""
        # Equal batch sizes side by side: each run of them is one batched product.
        members = dict(sorted(members.items(), key=lambda item: (item[1].params.batch_size, item[0])))
        shapes = padded([member.shapes for member in members.values()])
        multipliers = [member.lr_multipliers for member in members.values()]
        stack = ParameterStack(shapes, len(members), self.device, multipliers)
        for place, (slot, member) in enumerate(members.items()):
            stack.write(place, starts[slot] if slot in starts else self._stack.read(self._place(slot), member.shapes))
        lora.install(self.model, [m.adapters for m in members.values()], stack.parameters, self._backbone.context)
        self._trials, self._stack = members, stack

    def _layout(
        self, slots: Sequence[int], counts: Sequence[int], *, training: bool, memo: dict[Any, Any] | None = None
    ) -> BatchLayout:
        members, places = [self._trials[slot] for slot in slots], {s: i for i, s in enumerate(self._trials)}
        return BatchLayout(
            places=tuple(places[slot] for slot in slots),
            counts=tuple(counts),
            params=tuple(m.params for m in members),
            bits=tuple(m.bits() for m in members) if training else (),
            context=self._backbone.context,
            training=training,
            whole=len(self._trials),
            memo={} if memo is None else memo,
            stacked=self._stack.parameters,
            owned=tuple(m.own for m in members),
            statistics=tuple(m.statistics for m in members),
            constants=self._constants,
        )
