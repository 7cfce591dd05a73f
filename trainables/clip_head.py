"""Classifier head on CLIP's frozen image tower: linear probe or one hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.models import clip_weights, feature_head
from lungtune.models.params import Classes, Loop, Smote, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.clip_model import ClipImages


@dataclass(frozen=True)
class ClipHeadBase:
    """The frozen CLIP; trials with equal ones may share a pack."""

    model: str = param("ViT-L-14", help="open_clip's name of the architecture; not read when weights is a folder")
    weights: str = param(
        "openai", help="tag of the hub, tiny_clip (shipped with lungtune), or a folder in open_clip's local-dir format"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")
    views: int = param(
        4, low=0, high=64, help="augmented views of an image kept for each level; 0 runs the tower in every step"
    )


@dataclass(frozen=True)
class ClipHeadParams(Smote, Synthetic, Classes, Loop):
    """Hyperparameters of a trial. The defaults are the plain linear probe."""

    lr: float = param(1e-3, low=1e-7, high=1.0, help="peak learning rate")
    weight_decay: float = param(
        0.01, low=0.0, high=1.0, help="weight decay: decoupled for adamw, added to the gradient for adam and sgd"
    )
    batch_size: int = param(32, low=1, high=4096, unit="images", help="images of one optimiser step")
    warmup: float = param(0.0, low=0.0, high=0.9, help="share of the maximum fidelity over which lr rises")
    augmentation: int = param(0, low=0, high=3, help="strength of X-ray-safe augmentation; 0 none, 3 with flips")
    hidden: int = param(
        0, low=0, high=4096, unit="units", structural=True, help="hidden units beside the linear map; 0: linear probe"
    )
    dropout: float = param(0.0, low=0.0, high=0.9, help="share of the features dropped in training")


class ClipHead(Family[ClipHeadBase, ClipHeadParams]):
    """``x W + b``, plus ``gelu(x U + u) V`` where there are hidden units, over the tower's features x.

    x is what the tower puts out before its projection into the space shared with the text, as in the linear probes
    of Radford et al. (arXiv 2103.00020, appendix A.3).
    """

    summary: ClassVar[str] = "CLIP's frozen image tower with a trained classifier head"
    tasks = (Classification(),)
    Base = ClipHeadBase
    Params = ClipHeadParams

    def check(self, base: ClipHeadBase) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds."""
        clip_weights.find(base.model, base.weights, fetch=True)

    def miniature(self, folder: Path) -> ClipHeadBase:
        """See ``Family.miniature``: two blocks of width 32."""
        from lungtune.models import clip_model

        clip_model.write_random(folder)
        return ClipHeadBase(weights=str(folder), image_size=16, views=0)

    def backbone(self, base: ClipHeadBase, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        from lungtune.models import clip_model

        return clip_model.ClipImages(clip_model.plain_clip(base)).eval()

    def trainable_parameters(
        self, model: ClipImages, params: ClipHeadParams, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``."""
        return feature_head.draw(model.width, params.hidden, len(classes), generator)

    def features(self, model: ClipImages, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``: ``features`` ``(N, width)`` float32."""
        return {"features": model.upper(model.lower(batch["image"])).float()}

    def outputs(self, model: ClipImages, batch: Batch, layout: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"logits": feature_head.scores(batch["features"], layout)}

    def export(
        self,
        base: ClipHeadBase,
        params: ClipHeadParams,
        classes: Sequence[str],
        adapter: dict[str, torch.Tensor],
        folder: Path,
    ) -> None:
        """See ``Family.export``: CLIP in open_clip's local-dir format, with the head in a separate file."""
        from lungtune.models import clip_export

        clip_export.write_head(base, classes, adapter, folder)


FAMILY = ClipHead()
