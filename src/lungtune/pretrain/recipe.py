"""Common settings of all pretraining recipes: images, passes, optimisation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungtune.data.phantom.captions import FINDINGS
from lungtune.pretrain.corpus import Corpus, corpus

_DENSE = (1.0, *(3.0 for _ in FINDINGS))  # weights of lung map and findings' maps in the auxiliary loss


@dataclass(frozen=True)
class Recipe(ABC):
    """Pretraining recipe of a base.

    Attributes:
        patients: patients of phantom domain A; about 1.85 images each.
        render_size: width of the rendered pictures before they shrink to the model's, px.
        passes: passes over the images.
        batch: images a step.
        lr: peak learning rate of AdamW, after 10 % warm-up, falling along a cosine to zero.
        weight_decay: on matrices and kernels.
    """

    patients: int
    render_size: int
    passes: int
    batch: int
    lr: float
    weight_decay: float

    @property
    @abstractmethod
    def size(self) -> int:
        """Width of the model's images, px."""

    def steps(self, images: int) -> int:
        """Return the number of training steps over ``images`` pictures."""
        return self.passes * (images // self.batch)

    def corpus(self, seed: int, tick: Callable[[], None] = lambda: None) -> Corpus:
        """Render the pictures; ``tick`` is called for each."""
        return corpus(self.patients, render_size=self.render_size, size=self.size, seed=seed, tick=tick)

    @abstractmethod
    def train(self, data: Corpus, seed: int, tick: Callable[[float], None] = lambda loss: None) -> nn.Module:
        """Return a model trained on ``data``, in eval mode; ``tick`` is called with every step's loss."""

    @abstractmethod
    def write(self, model: nn.Module, folder: Path) -> None:
        """Write what ``train`` returned into the empty ``folder``, in half precision."""

    def batches(self, images: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield the rows of every step."""
        for _ in range(self.passes):
            order = torch.randperm(images, generator=generator)
            for i in range(images // self.batch):
                yield order[i * self.batch : (i + 1) * self.batch]

    def optimiser(self, weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Return AdamW, with weight decay on matrices and kernels only."""
        weights = list(weights)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(0.9, 0.98))


def set_lr(optimiser: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Set the rate of one step: 10 % warm-up, then a cosine to zero."""
    for group in optimiser.param_groups:
        group["lr"] = peak * min((step + 1) / (0.1 * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, weights: list[nn.Parameter]) -> None:
    """Take one step against the gradient, clipped to norm 1."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()


def dense_loss(logits: Tensor, maps: Tensor, kinds: Tensor) -> Tensor:
    """Return the loss of cells' predictions of their shares of lung and of each finding, from the last feature map.

    Args:
        logits: ``(N, L, 1 + F)`` of L cells, a square grid row by row.
        maps: lung and lesions, float ``(N, 2, S, S)`` in [0, 1].
        kinds: which of ``FINDINGS`` a picture shows, ``(N, F)``.
    """
    side = maps.shape[-1] // math.isqrt(logits.shape[1])
    share = functional.avg_pool2d(maps, side).flatten(2).transpose(1, 2)
    share = torch.cat([share[..., :1], share[..., 1:] * kinds[:, None]], -1)
    loss = functional.binary_cross_entropy_with_logits(logits, share, reduction="none").mean((0, 1))
    return (loss * torch.tensor(_DENSE)).sum()


def half(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state, its floats in half precision."""
    state = model.state_dict().items()
    return {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in state}
