"""Supervised pretraining of a classifier body on visible findings and their places, never on diseases."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lungtune.data.phantom.captions import FINDINGS
from lungtune.pretrain.corpus import MEAN, STD, Corpus, augment
from lungtune.pretrain.patches import whiten
from lungtune.pretrain.recipe import Recipe, dense_loss, descend, half, set_lr


@dataclass(frozen=True)
class Supervised(Recipe):
    """A model of timm's, or one of our Conformers, that learns which findings a picture shows at which places.

    Attributes:
        architecture: timm's name, or one of ``lungtune.models.conformer.SIZES``.
        settings: arguments of the architecture.
        dense: weight of the auxiliary loss, see ``recipe.dense_loss``.
        size: width of the images, px.
    """

    architecture: str
    settings: Mapping[str, Any]
    dense: float
    size: int = 64

    def train(self, data: Corpus, seed: int, tick: Callable[[float], None] = lambda loss: None) -> nn.Module:
        """See ``Recipe.train``: the model without a head."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        body = self.body()
        if hasattr(body, "patch_embed"):
            whiten(body.get_parameter("patch_embed.proj.weight"), body.get_parameter("pos_embed")[0], data.images)
        with torch.no_grad():
            shapes = [(pooled.shape[1], cells.shape[2]) for pooled, cells in branches(body.eval(), self._blank())]
        tell = nn.ModuleList(nn.Linear(width, data.places.shape[1]) for width, _ in shapes)
        show = nn.ModuleList(nn.Linear(width, 1 + len(FINDINGS)) for _, width in shapes)
        weights = [*body.parameters(), *tell.parameters(), *show.parameters()]
        optimiser, steps = self.optimiser(weights), self.steps(len(data.images))
        body.train()
        for step, rows in enumerate(self.batches(len(data.images), generator)):
            set_lr(optimiser, self.lr, step, steps)
            images, maps = augment(data.images[rows], data.maps[rows], generator)
            classified, dense = torch.zeros(()), torch.zeros(())
            for (pooled, cells), head, painter in zip(branches(body, images), tell, show, strict=True):
                loss = functional.binary_cross_entropy_with_logits(head(pooled), data.places[rows], reduction="none")
                classified = classified + loss.sum(1).mean() / len(tell)
                dense = dense + dense_loss(painter(cells), maps, data.kinds[rows]) / len(tell)
            descend(classified + self.dense * dense, optimiser, weights)
            tick(float(classified.detach()))
        return body.eval()

    def body(self) -> nn.Module:
        """Return the model as its library draws it: one channel, no head."""
        from lungtune.models import conformer, lazy_imports

        if self.architecture in conformer.SIZES:
            return conformer.conformer(self.architecture, 1, 0, **self.settings)
        return lazy_imports.timm().create_model(self.architecture, in_chans=1, num_classes=0, **self.settings)

    def write(self, model: nn.Module, folder: Path) -> None:
        """See ``Recipe.write``: timm's format for the hub."""
        from safetensors.torch import save_file

        with torch.no_grad():
            widths = [pooled.shape[1] for pooled, _ in branches(model, self._blank())]
        ours = getattr(model, "pretrained_cfg", {})
        config = {
            "architecture": self.architecture,
            "num_classes": 0,
            "num_features": sum(widths),
            "model_args": dict(self.settings),
            "pretrained_cfg": {
                "input_size": [1, self.size, self.size],
                "fixed_input_size": bool(ours.get("fixed_input_size")),
                "interpolation": "bicubic",
                "crop_pct": 1.0,
                "mean": [MEAN],
                "std": [STD],
                "num_classes": 0,
                "first_conv": ours.get("first_conv", "conv1"),
                "classifier": ours.get("classifier"),
            },
        }
        save_file(half(model), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _blank(self) -> Tensor:
        return torch.zeros(1, 1, self.size, self.size)


def branches(body: Any, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each branch's features of images: pooled ``(N, D)``, cells ``(N, L, D)`` row by row.

    A Conformer has two branches, everything else one.
    """
    if hasattr(body, "trans_cls_head"):
        maps, tokens = body.features(images)
        return [(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2)), (tokens[:, 0], tokens[:, 1:])]
    seen = body.forward_features(images)
    cells = seen.flatten(2).transpose(1, 2) if seen.ndim == 4 else seen[:, getattr(body, "num_prefix_tokens", 0) :]
    return [(body.forward_head(seen, pre_logits=True), cells)]
