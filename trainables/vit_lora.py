"""Vision transformer adapted by LoRA, with a linear head."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lungtune.core.family import Family, LoraTarget
from lungtune.core.params import param
from lungtune.models import feature_head, timm_models
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.grey_images import Normalised

_ATTENTION = {name: f"attn.{name}_proj" for name in ("q", "k", "v", "out")}
_MLP = ("mlp.fc1", "mlp.fc2")
_PROJECTIONS = {
    "qv": (_ATTENTION["q"], _ATTENTION["v"]),
    "qkv": (_ATTENTION["q"], _ATTENTION["k"], _ATTENTION["v"]),
    "qkvo": tuple(_ATTENTION.values()),
    "mlp": _MLP,
    "qkv_mlp": (_ATTENTION["q"], _ATTENTION["k"], _ATTENTION["v"], *_MLP),
    "qkvo_mlp": (*_ATTENTION.values(), *_MLP),
}


@dataclass(frozen=True)
class VitLoraBase:
    """The frozen transformer; trials with equal ones may share a pack."""

    model: str = param("vit_base_patch16_224", help="timm's name of the architecture; not read for a folder of weights")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")


@dataclass(frozen=True)
class VitLoraParams(Synthetic, Classes, Loop):
    """Hyperparameters of a trial. The defaults are the source project's configuration."""

    lr: float = param(2e-5, low=1e-7, high=1.0, help="peak learning rate")
    lora_rank: int = param(8, low=1, high=256, structural=True, help="rank r of every adapter")
    lora_alpha: float = param(16.0, low=0.01, high=1024.0, help="strength: an adapter is scaled by alpha / rank")
    lora_dropout: float = param(0.0, low=0.0, high=0.9, help="share of an adapter's input features dropped in training")
    lora_targets: str = param(
        "qv", choices=tuple(_PROJECTIONS), structural=True, help="projections of a block that are adapted"
    )
    lora_blocks: str = param("all", choices=("all", "upper_half"), structural=True, help="blocks that are adapted")


class VitLora(Family[VitLoraBase, VitLoraParams]):
    """LoRA (Hu et al., arXiv 2106.09685) on a ViT whose fused ``qkv`` is taken apart, so that each can be adapted."""

    summary: ClassVar[str] = "ViT-B/16 with LoRA and a linear head"
    tasks = (Classification(),)
    Base = VitLoraBase
    Params = VitLoraParams

    def check(self, base: VitLoraBase) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds."""
        timm_models.check(base.model, base.weights)

    def miniature(self, folder: Path) -> VitLoraBase:
        """See ``Family.miniature``: two blocks of width 24."""
        from lungtune.models import timm_export

        settings = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
        timm_export.write_random("vit_tiny_patch16_224", settings, folder)
        return VitLoraBase(weights=str(folder), image_size=32)

    def backbone(self, base: VitLoraBase, classes: Sequence[str]) -> Normalised:
        """See ``Family.backbone``.

        Raises:
            SpaceError: the model's attention can't be split without a change of its output.
        """
        from lungtune.models import grey_images, timm_vit

        built = timm_models.build(base.model, base.weights, base.image_size)
        model = grey_images.Normalised(timm_models.having(built, "blocks", "a vision transformer of timm's"))
        model.width = grey_images.width(model, base.image_size)
        timm_vit.split(built, base.image_size)
        return model

    def lora_targets(self, model: Normalised, params: VitLoraParams) -> Sequence[LoraTarget]:
        """See ``Family.lora_targets``: one pattern for each projection, so that each must match."""
        count = len(model.net.blocks)
        first = count // 2 if params.lora_blocks == "upper_half" else 0
        blocks = "|".join(map(str, range(first, count)))
        return [
            LoraTarget(
                rf"net\.blocks\.({blocks})\.{re.escape(name)}",
                params.lora_rank,
                params.lora_alpha,
                params.lora_dropout,
            )
            for name in _PROJECTIONS[params.lora_targets]
        ]

    def trainable_parameters(
        self, model: Normalised, params: VitLoraParams, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: the head."""
        return feature_head.draw(model.width, 0, len(classes), generator)

    def outputs(self, model: Normalised, batch: Batch, layout: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"logits": feature_head.linear(model.embed(batch["image"]).float(), layout)}

    def export(
        self,
        base: VitLoraBase,
        params: VitLoraParams,
        classes: Sequence[str],
        adapter: dict[str, torch.Tensor],
        folder: Path,
    ) -> None:
        """See ``Family.export``: timm's format with the adapters merged in, and the adapters in a separate file."""
        from safetensors.torch import save_file

        from lungtune.models import timm_export, timm_vit

        built = timm_models.build(base.model, base.weights, base.image_size)
        timm_vit.merge(built.model, adapter, params.lora_alpha / params.lora_rank)
        head = {name: adapter[name] for name in ("head.weight", "head.bias")}
        timm_export.write_timm(built, base.image_size, classes, folder, head=head)
        rest = {name: tensor.contiguous() for name, tensor in adapter.items() if name not in head}
        save_file(rest, folder / "adapter.safetensors")


FAMILY = VitLora()
