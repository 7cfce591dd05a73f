"""Minimal family and packs of it, for training-loop tests without a real backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.core.family import Family, LoraTarget
from lungtune.core.params import param
from lungtune.data.dataset import Part
from lungtune.engine.pack import Pack
from lungtune.inputs.batch import Batch
from lungtune.inputs.training_pool import Phase
from lungtune.layers.layout import BatchLayout
from lungtune.models.params import Loop
from lungtune.tasks.classification import Classification


@dataclass(frozen=True)
class Base:
    """Nothing but a size."""

    image_size: int = param(8)


@dataclass(frozen=True)
class Params(Loop):
    """Parameters of the training loop and of LoRA."""

    lr: float = param(1e-2)
    weight_decay: float = param(0.01)
    batch_size: int = param(4)
    warmup: float = param(0.1)
    augmentation: int = param(0)
    class_weighting: str = param("none")
    rank: int = param(4)
    alpha: float = param(8.0)
    dropout: float = param(0.0)
    targets: str = param("first|second")


class Net(nn.Module):
    """Two Linears, a head that stays as it is, and a layer that is never run."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 24)
        self.second = nn.Linear(24, 16)
        self.head = nn.Linear(16, 3)
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.second(F.gelu(self.first(x.flatten(1))))))


class Toy(Family[Base, Params]):
    """A family as small as can be, to test the pack without a real backbone."""

    summary = "toy"
    tasks = (Classification(),)
    Base = Base
    Params = Params

    def check(self, base: Any) -> None:
        """No weights are needed."""

    def miniature(self, folder: Path) -> Base:
        """Return the only base."""
        return Base()

    def backbone(self, base: Any, classes: Sequence[str]) -> nn.Module:
        """Return the same random weights every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Net().eval()

    def lora_targets(self, model: nn.Module, params: Params) -> list[LoraTarget]:
        """Return one target."""
        return [LoraTarget(p, params.rank, params.alpha, params.dropout) for p in params.targets.split("|")]

    def outputs(self, model: nn.Module, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        """Run the net."""
        return {"logits": model(batch["image"])}

    def export(self, *args: Any) -> None:
        """Nothing to write."""


N = 22
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 8, 8), dtype=np.uint8)
LABELS = np.arange(N) % 3
CLASSES = ["a", "b", "c"]
REAL = (Phase(0, torch.arange(N), torch.ones(3)),)
"""Training pool of a trial without additional images."""


def part(images: np.ndarray = IMAGES, labels: np.ndarray = LABELS) -> Part:
    """Return grey images uint8 ``(N, H, W)`` and labels as a part of a data set."""
    return Part.of(image=images[:, None], label=np.asarray(labels, np.int64))


PART = part()


def pack(capacity: int = 4, train: Part = PART, **options: Any) -> Pack:
    return Pack(Toy(), Base(), CLASSES, train, capacity=capacity, **options)


def predicted(members: Pack, slot: int, of: Part = PART, **options: Any) -> Tensor:
    """Return a trial's class probabilities ``(N, 3)``."""
    return members.predict(of, [slot], **options)[slot]["probabilities"]


def run(members: Pack, steps: int) -> list[dict[int, float]]:
    return [members.step() for _ in range(steps)]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


HARD = Params(dropout=0.3, augmentation=3, batch_size=5)
