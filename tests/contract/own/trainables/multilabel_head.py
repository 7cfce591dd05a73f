"""Multi-label head over frozen features, trained for a custom task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune_user.tasks.findings import MultiLabel

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.models import feature_head
from lungtune.models.params import Loop

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Base:
    """The frozen network."""

    image_size: int = param(16, low=8, high=256, unit="px", help="side of the square image")
    views: int = param(0, low=0, high=8, help="augmented views of an image kept for each level; 0 keeps none")


@dataclass(frozen=True)
class Params(Loop):
    """Hyperparameters of a trial."""


class MultiLabelHead(Family[Base, Params]):
    """One logit a finding."""

    summary = "several findings a case, a head over frozen features"
    tasks = (MultiLabel(),)
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
            return nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()

    def trainable_parameters(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: the head."""
        return feature_head.draw(32, 0, len(classes), generator)

    def features(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``."""
        return {"features": 10 * model(batch["image"]).float()}

    def outputs(self, model: torch.nn.Module, batch: Mapping[str, Any], layout: Any) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"findings": feature_head.linear(batch["features"], layout)}

    def export(
        self, base: Base, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``."""
        from safetensors.torch import save_file

        state = {f"net.{name}": tensor for name, tensor in self.backbone(base, classes).state_dict().items()}
        save_file({**state, **adapter}, folder / "model.safetensors")
        (folder / "README.md").write_text("# Several findings\n")


FAMILY = MultiLabelHead()
