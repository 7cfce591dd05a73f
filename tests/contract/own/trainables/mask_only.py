"""Segmentation-only family: grey image to lung mask, no class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.models.params import Loop
from lungtune.tasks.segmentation import Segmentation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Base:
    """The network."""

    image_size: int = param(16, low=8, high=256, unit="px", help="side of the square image")


@dataclass(frozen=True)
class Params(Loop):
    """Hyperparameters of a trial."""


class MaskOnly(Family[Base, Params]):
    """Three convolutions that train as a whole."""

    summary = "a small segmenter of lungs"
    tasks = (Segmentation(),)
    packs = False
    Base = Base
    Params = Params

    def check(self, base: Base) -> None:
        """No pretrained weights: the network is initialised from a seed."""

    def miniature(self, folder: Path) -> Base:
        """See ``Family.miniature``."""
        return Base()

    def backbone(self, base: Base, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 1, 1)
            ).eval()

    def trainable_parameters(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: all of the network, its last layer reinitialised."""
        from lungtune.layers import network

        own = network.parameters(model, lambda name: True)
        network.redraw(own, ["4"], generator)
        return own

    def outputs(self, model: torch.nn.Module, batch: Mapping[str, Any], layout: Any) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``: ``mask`` logits ``(N, 1, H, W)``."""
        from lungtune.layers import network

        return network.run(model, batch["image"], layout, lambda params, rows: {"mask": model(rows)})

    def export(
        self, base: Base, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``."""
        from safetensors.torch import save_file

        save_file(adapter, folder / "model.safetensors")
        (folder / "README.md").write_text("# A segmenter\n")


FAMILY = MaskOnly()
