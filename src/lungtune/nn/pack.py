"""The training loop's heart: K trials trained together over one frozen backbone.

The batches of all slots are concatenated; frozen layers run once on all rows, adapted layers apply each slot's own
weights to its own rows, one optimiser step serves everybody. What a trial gets is a function of its parameters, seed
and step: who shares the pack changes nothing but the order of floating-point sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lungtune.core.trainable import Trainable
from lungtune.errors import CheckpointError, TrialError
from lungtune.nn import lora
from lungtune.nn.augment import augment
from lungtune.nn.bank import Bank
from lungtune.nn.losses import class_weights, cross_entropy
from lungtune.nn.optim import Update, adamw, rate
from lungtune.nn.pixels import Pixels
from lungtune.nn.slots import Slots, Stage, mix

_ORDER, _AUGMENT, _DROPOUT, _INIT = range(4)
"""What random numbers are for: every purpose has its own stream."""


@dataclass
class _Member:
    """One trial in the pack."""

    params: Any
    seed: int
    horizon: int
    adapters: dict[str, lora.Adapter]
    shapes: dict[str, tuple[int, ...]]
    weights: Tensor
    steps: int = 0
    samples: int = 0
    silent: list[str] | None = None
    order: tuple[int, Tensor] | None = field(default=None, repr=False)

    @property
    def total(self) -> int:
        return max(1, math.ceil(self.horizon / self.params.batch_size))


class Pack:
    """Trials that share a backbone, each in a slot of its own.

    Args:
        trainable: the model family.
        base: its ``Base``; equal for all trials of the pack.
        classes: class names; a label is an index into them.
        images: training fold, uint8 ``(N, H, W)``, numpy (may be memory-mapped) or torch.
        labels: int64 ``(N,)``.
        capacity: most slots at a time, >= 1.
        device: torch device.
        precision: ``fp32`` or ``bf16`` (autocast; adapters, moments and losses stay float32). Default: bf16 on CUDA,
            fp32 elsewhere.
    """

    def __init__(
        self,
        trainable: Trainable,
        base: Any,
        classes: Sequence[str],
        images: np.ndarray | Tensor,
        labels: np.ndarray | Tensor,
        *,
        capacity: int,
        device: str | torch.device = "cpu",
        precision: str | None = None,
    ) -> None:
        self.trainable = trainable
        self.capacity = capacity
        self.device = torch.device(device)
        self.precision = precision or ("bf16" if self.device.type == "cuda" else "fp32")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, but got {precision!r}")
        self.classes = tuple(classes)
        self._pixels = Pixels(images, self.device)
        self._labels = torch.as_tensor(np.asarray(labels), dtype=torch.int64).to(self.device)
        if len(self._labels) != len(self._pixels) or not len(self._labels):
            raise ValueError(
                f"as many labels as images must be given, but got {len(self._labels)}, {len(self._pixels)}"
            )
        self.model = trainable.backbone(base, classes).requires_grad_(False).eval().to(self.device)
        self._stage = Stage()
        self._members: dict[int, _Member] = {}
        self._places: list[int] = []
        self._bank = Bank({}, 0, self.device)
        self._generators: dict[tuple[int, int], torch.Generator] = {}

    @property
    def slots(self) -> tuple[int, ...]:
        """Slots that are taken, ascending."""
        return tuple(sorted(self._members))

    def join(self, params: Any, *, seed: int, horizon: int, state: Mapping[str, Tensor] | None = None) -> int:
        """Let a trial in; return its slot.

        Args:
            params: the family's ``Params``.
            seed: everything random in the trial follows from it.
            horizon: samples of the maximum fidelity: warm-up and cosine span these.
            state: what ``state`` returned, to go on from there.

        Raises:
            SpaceError: a LoRA target matches no layer.
            CheckpointError: ``state`` belongs to a trial with other adapters.
            ValueError: the pack is full.
        """
        if len(self._members) >= self.capacity:
            raise ValueError(f"a pack takes at most capacity={self.capacity} trials, and this one is full")
        adapters = lora.match(self.model, self.trainable.targets(self.model, params))
        shapes: dict[str, tuple[int, ...]] = {}
        fresh: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(mix(seed, _INIT))
        for name, adapter in adapters.items():
            linear = lora.plain(self.model, name)
            a, b = lora.initial(linear, adapter.rank, generator)
            for key, value in ((f"{name}.lora_A", a), (f"{name}.lora_B", b)):
                shapes[key] = tuple(value.shape)
                fresh[key] = torch.stack([value, torch.zeros_like(value), torch.zeros_like(value)])
        weights = class_weights(self._labels, len(self.classes), params.class_weighting).to(self.device)
        member = _Member(params, seed, horizon, adapters, shapes, weights)
        if state is not None:
            wrong = set(shapes.keys() ^ (state.keys() - {"progress"}))
            wrong |= {k for k in shapes.keys() & state.keys() if tuple(state[k].shape) != (3, *shapes[k])}
            if wrong or "progress" not in state:
                raise CheckpointError(f"a trial's state must fit its parameters, but these do not: {sorted(wrong)[:4]}")
            member.steps, member.samples = (int(n) for n in state["progress"])
            fresh = {k: state[k] for k in shapes}
        slot = next(s for s in range(self.capacity) if s not in self._members)
        self._settle({**self._members, slot: member}, {slot: fresh})
        return slot

    def leave(self, slot: int) -> None:
        """Free a slot; the others go on undisturbed."""
        self._settle({s: m for s, m in self._members.items() if s != slot}, {})

    def step(self) -> dict[int, float]:
        """Take one optimiser step of every slot, each on its own next batch; return the training loss of each.

        A loss may be NaN or infinite: that slot is broken, the others are not touched by it.
        """
        if not self._places:
            return {}
        members = [self._members[s] for s in self._places]
        chosen = [self._next(m) for m in members]
        index = torch.cat(chosen)
        labels = self._labels[index.to(self.device)]
        slots = self._layout(self._places, [len(c) for c in chosen], training=True)
        levels = [m.params.augmentation for m in members]
        images = self._pixels.take(index)
        images = augment(images, levels, slots.counts, self._seeded(_AUGMENT, self._places))
        with self._stage.showing(slots), self._autocast():
            logits = self.trainable.logits(self.model, images, slots)
        weights = torch.cat([m.weights[labels[rows]] for m, rows in zip(members, slots.rows, strict=True)])
        losses = slots.means(cross_entropy(logits, labels, weights))
        self._bank.differentiate(losses.sum())
        for place, member in enumerate(members):
            if member.steps == 0:
                names = [f"{name}.lora_B" for name in member.adapters]
                member.silent = self._bank.silent(place, names)
        updates = []
        for member in members:
            p = member.params
            lr = rate(member.steps, peak=p.lr, total=member.total, warmup=p.warmup)
            member.steps += 1
            member.samples += p.batch_size
            updates.append(Update(lr, p.weight_decay, member.steps))
        bank = self._bank
        adamw(bank.values, bank.mean, bank.square, bank.grads, updates)
        return dict(zip(self._places, losses.tolist(), strict=True))

    def verify(self, slot: int) -> None:
        """Check that the slot's first step in this process from step 0 reached every adapter.

        Raises:
            TrialError: an adapter got no gradient: it would never learn, and its axes of the search would be dead.
        """
        silent = self._members[slot].silent
        if silent:
            shown = ", ".join(silent[:3]) + (", ..." if len(silent) > 3 else "")
            raise TrialError("error", f"every adapter must get a gradient, but {len(silent)} got none: {shown}")

    def samples(self, slot: int) -> int:
        """Return how many training images the trial has seen."""
        return self._members[slot].samples

    @torch.no_grad()
    def predict(
        self, images: np.ndarray | Tensor, slots: Sequence[int] | None = None, *, batch_size: int = 64
    ) -> dict[int, Tensor]:
        """Score images with the weights as they are: no augmentation, no dropout, every image once.

        Args:
            images: uint8 ``(M, H, W)``.
            slots: which trials; default all.
            batch_size: images at a time (each passes once for every slot).

        Returns:
            Float32 ``(M, classes)`` probabilities on the CPU, for each slot.
        """
        wanted = set(self.slots if slots is None else slots)
        places = [s for s in self._places if s in wanted]
        pixels = Pixels(images, self.device)
        parts: dict[int, list[Tensor]] = {s: [] for s in wanted}
        memo: dict[str, Any] = {}
        for first in range(0, len(pixels), batch_size):
            batch = pixels.take(torch.arange(first, min(first + batch_size, len(pixels))))
            layout = self._layout(places, [len(batch)] * len(places), training=False)
            layout.memo = memo
            with self._stage.showing(layout), self._autocast():
                logits = self.trainable.logits(self.model, batch.repeat(len(places), 1, 1, 1), layout)
            for slot, rows in zip(places, logits.float().softmax(1).cpu().split(layout.counts), strict=True):
                parts[slot].append(rows)
        return {slot: torch.cat(rows) for slot, rows in parts.items()}

    def state(self, slot: int) -> dict[str, Tensor]:
        """Return all that is needed to go on exactly: weights with their moments ``(3, ...)``, and progress.

        It depends neither on the pack's size nor on the other trials' ranks.
        """
        member = self._members[slot]
        state = self._bank.read(self._places.index(slot), member.shapes)
        state["progress"] = torch.tensor([member.steps, member.samples])
        return state

    def adapter(self, slot: int) -> dict[str, Tensor]:
        """Return the LoRA weights at their true rank, on the CPU, under PEFT's names."""
        member = self._members[slot]
        state = self._bank.read(self._places.index(slot), member.shapes)
        return {f"base_model.model.{name}.weight": tensor[0].cpu() for name, tensor in state.items()}

    def _settle(self, members: dict[int, _Member], fresh: dict[int, dict[str, Tensor]]) -> None:
        """Lay the stacked parameters out anew for these members."""
        states = dict(fresh)
        for place, slot in enumerate(self._places):
            if slot in members:
                states[slot] = self._bank.read(place, members[slot].shapes)
        # Equal batch sizes side by side: each run of them is one batched product.
        places = sorted(members, key=lambda s: (members[s].params.batch_size, s))
        shapes: dict[str, tuple[int, ...]] = {}
        for member in members.values():
            for name, shape in member.shapes.items():
                known = shapes.get(name, shape)
                shapes[name] = tuple(max(pair) for pair in zip(known, shape, strict=True))
        layers = {name.rpartition(".")[0] for name in shapes}
        names = [name for name in lora.linears(self.model) if name in layers]
        ordered = {key: shapes[key] for name in names for key in (f"{name}.lora_A", f"{name}.lora_B")}
        self._bank = Bank(ordered, len(places), self.device)
        for place, slot in enumerate(places):
            self._bank.write(place, states[slot])
        for name in lora.linears(self.model):
            if name not in layers:
                lora.detach(self.model, name)
                continue
            a, b = self._bank.parameters[f"{name}.lora_A"], self._bank.parameters[f"{name}.lora_B"]
            adapters = [members[s].adapters.get(name) for s in places]
            lora.attach(self.model, name, self._stage).bind(a, b, adapters)
        self._members, self._places = members, places

    def _layout(self, slots: Sequence[int], counts: Sequence[int], *, training: bool) -> Slots:
        return Slots(
            places=tuple(self._places.index(s) for s in slots),
            counts=tuple(counts),
            params=tuple(self._members[s].params for s in slots),
            generators=self._seeded(_DROPOUT, slots) if training else (),
            stage=self._stage,
            training=training,
            whole=len(self._places),
        )

    def _seeded(self, purpose: int, slots: Sequence[int]) -> tuple[torch.Generator, ...]:
        """Return each slot's generator of one purpose, set to its current step."""
        generators = []
        for slot in slots:
            member = self._members[slot]
            generator = self._generators.setdefault((purpose, slot), torch.Generator(self.device))
            generators.append(generator.manual_seed(mix(member.seed, purpose, member.steps)))
        return tuple(generators)

    def _next(self, member: _Member) -> Tensor:
        """Return the indices of a trial's next batch; a batch may run over the end of a pass into the next."""
        parts, at, left = [], member.samples, member.params.batch_size
        size = len(self._pixels)
        while left:
            number, offset = divmod(at, size)
            if member.order is None or member.order[0] != number:
                generator = torch.Generator().manual_seed(mix(member.seed, _ORDER, number))
                member.order = number, torch.randperm(size, generator=generator)
            part = member.order[1][offset : offset + left]
            parts.append(part)
            at, left = at + len(part), left - len(part)
        return torch.cat(parts)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
