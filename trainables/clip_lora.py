"""CLIP adapted by LoRA: images are scored against fixed captions of the classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import Family, LoraTarget
from lungtune.core.params import param
from lungtune.errors import SpaceError
from lungtune.models import clip_weights
from lungtune.models.clip_prompts import STYLES
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.clip_model import ClipClassifier

_PROJECTIONS = {
    "qv": ("attn.q_proj", "attn.v_proj"),
    "qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "qkvo": ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
    "mlp": ("mlp.c_fc", "mlp.c_proj"),
    "qkv_mlp": ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.c_fc", "mlp.c_proj"),
    "qkvo_mlp": ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"),
}
_TOWERS = {"image": ("visual",), "text": ("text",), "both": ("visual", "text")}


@dataclass(frozen=True)
class ClipLoraBase:
    """The frozen CLIP; trials with equal ones may share a pack."""

    model: str = param("ViT-L-14", help="open_clip's name of the architecture; not read when weights is a folder")
    weights: str = param(
        "openai", help="tag of the hub, tiny_clip (shipped with lungtune), or a folder in open_clip's local-dir format"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")
    frozen_blocks: int = param(0, low=0, high=64, help="lower blocks of the image tower that no trial adapts")
    views: int = param(
        0, low=0, high=64, help="augmented views of an image kept behind the frozen blocks; 0 keeps none"
    )


@dataclass(frozen=True)
class ClipLoraParams(Synthetic, Classes, Loop):
    """Hyperparameters of a trial. The defaults are the source project's configuration."""

    weight_decay: float = param(
        0.01, low=0.0, high=1.0, help="weight decay: decoupled for adamw, added to the gradient for adam and sgd"
    )
    batch_size: int = param(4, low=1, high=512, unit="images", help="images of one optimiser step")
    lora_rank: int = param(16, low=1, high=256, structural=True, help="rank r of every adapter")
    lora_alpha: float = param(32.0, low=0.01, high=1024.0, help="strength: an adapter is scaled by alpha / rank")
    lora_dropout: float = param(0.1, low=0.0, high=0.9, help="share of an adapter's input features dropped in training")
    lora_targets: str = param(
        "qkv_mlp", choices=tuple(_PROJECTIONS), structural=True, help="projections of a block that are adapted"
    )
    lora_tower: str = param("image", choices=tuple(_TOWERS), structural=True, help="towers of CLIP that are adapted")
    lora_blocks: str = param(
        "all", choices=("all", "upper_half"), structural=True, help="blocks not frozen that are adapted"
    )
    prompt_style: str = param("paper", choices=STYLES, help="how the classes are put into words")


class ClipLora(Family[ClipLoraBase, ClipLoraParams]):
    """Cosine of image and class caption, times CLIP's temperature; LoRA on chosen projections of either tower.

    The captions are those of the *classes*, the same for every batch. Scoring images against the captions of their
    own batch instead makes the loss of an untrained model ln(batch size) whatever it sees.
    """

    summary: ClassVar[str] = "CLIP with LoRA, scored against fixed class captions"
    tasks = (Classification(),)
    Base = ClipLoraBase
    Params = ClipLoraParams

    def check(self, base: ClipLoraBase) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds.

        Raises:
            SpaceError: views are to be kept, but no block is frozen.
        """
        if base.views and not base.frozen_blocks:
            raise SpaceError(
                f"frozen_blocks >= 1 must hold where views are kept, but got frozen_blocks 0 and views {base.views}: "
                "nothing worth keeping is below the first block."
            )
        clip_weights.find(base.model, base.weights, fetch=True)

    def miniature(self, folder: Path) -> ClipLoraBase:
        """See ``Family.miniature``: two blocks of width 32 in either tower."""
        from lungtune.models import clip_model

        clip_model.write_random(folder)
        return ClipLoraBase(weights=str(folder), image_size=16)

    def backbone(self, base: ClipLoraBase, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        from lungtune.models import clip_model

        clip = clip_model.plain_clip(base)
        return clip_model.ClipClassifier(clip, classes, clip_model.tokenizer(base), base.frozen_blocks).eval()

    def lora_targets(self, model: ClipClassifier, params: ClipLoraParams) -> Sequence[LoraTarget]:
        """See ``Family.lora_targets``: one pattern for each tower and projection, so that each must match."""
        patterns = []
        for tower in _TOWERS[params.lora_tower]:
            count = len(getattr(model, tower).transformer.resblocks)
            frozen = model.frozen if tower == "visual" else 0
            first = frozen + (count - frozen) // 2 if params.lora_blocks == "upper_half" else frozen
            blocks = "|".join(map(str, range(first, count)))
            patterns += [
                rf"{tower}\.transformer\.resblocks\.({blocks})\.{re.escape(projection)}"
                for projection in _PROJECTIONS[params.lora_targets]
            ]
        return [LoraTarget(p, params.lora_rank, params.lora_alpha, params.lora_dropout) for p in patterns]

    def features(self, model: ClipClassifier, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``: ``tokens`` ``(N, L, width)``, in bf16 where that halves what is kept."""
        import torch

        tokens, kind = model.lower(batch["image"]), batch["image"].device.type
        halved = model.frozen and torch.is_autocast_enabled(kind)
        return {"tokens": tokens.to(torch.get_autocast_dtype(kind)) if halved else tokens}

    def outputs(self, model: ClipClassifier, batch: Batch, layout: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        import torch

        matrices, features = _matrices(model, layout), model.embed(batch["tokens"].float())
        with torch.autocast(features.device.type, enabled=False):  # both are float32 on purpose
            return {"logits": layout.matmul(features, matrices.transpose(1, 2)) * model.scale}

    def export(
        self,
        base: ClipLoraBase,
        params: ClipLoraParams,
        classes: Sequence[str],
        adapter: dict[str, torch.Tensor],
        folder: Path,
    ) -> None:
        """See ``Family.export``: merged CLIP in open_clip's local-dir format, with the adapter in a separate file."""
        from lungtune.models import clip_export

        clip_export.write(base, params, classes, adapter, folder)


def _matrices(model: ClipClassifier, layout: BatchLayout) -> torch.Tensor:
    """Return ``(len(layout), C, D)``: each slot's class matrix; text is run only for slots that adapt its tower."""
    import torch

    key = ("class matrices", layout.places)
    if key in layout.memo:
        return layout.memo[key]
    styles = [p.prompt_style for p in layout.params]
    adapted = [i for i, p in enumerate(layout.params) if p.lora_tower != "image"]
    matrices: list[Any] = [
        None if i in adapted else model.fixed_matrix(style, layout) for i, style in enumerate(styles)
    ]
    if adapted:
        tokens = [model.captions(styles[i]) for i in adapted]
        with layout.over({i: len(t) for i, t in zip(adapted, tokens, strict=True)}) as texts:
            features = model.text_features(torch.cat(tokens))
        for i, rows in zip(adapted, texts.rows, strict=True):
            matrices[i] = model.class_matrix(styles[i], features[rows])
    prompts = torch.stack(matrices)
    if not layout.training:  # each part of a split batch is differentiated by itself and needs its own captions
        layout.memo[key] = prompts
    return prompts


FAMILY = ClipLora()
