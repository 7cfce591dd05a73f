"""Conformer trained as a whole: two branches, two heads, summed logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lungtune.core.params import param
from lungtune.models import timm_models, whole_network
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.grey_images import Normalised


@dataclass(frozen=True)
class ConformerBase:
    """The Conformer and where its weights come from."""

    model: str = param(
        "conformer_small",
        choices=("conformer_micro", "conformer_tiny", "conformer_small", "conformer_base"),
        help="its size; not read when weights is a folder",
    )
    weights: str = param(
        "random", help="random, a file of the published checkpoints, a shipped base, or a folder in timm's format"
    )
    image_size: int = param(224, low=32, high=1024, unit="px", help="side of the square input image, a multiple of 32")


@dataclass(frozen=True)
class ConformerParams(whole_network.NetworkParams):
    """Hyperparameters of a trial."""

    drop_path: float = param(
        0.1, low=0.0, high=0.9, help="chance that training skips the last transformer block; falls to 0 at the first"
    )


_BRANCHES = ("convolutions", "transformer")


class Conformer(whole_network.Network):
    """Peng et al. (arXiv 2105.03889): the loss is the mean of both heads', the prediction the sum of their logits."""

    tasks = (Classification(heads=_BRANCHES),)
    summary: ClassVar[str] = "Conformer, trained as a whole; both of its heads are reported"
    Base = ConformerBase
    Params = ConformerParams
    heads = ("conv_cls_head", "trans_cls_head")
    small = ("conformer_micro", {"base": 8, "width": 24, "heads": 2, "depth": 3})

    def build(self, base: ConformerBase, classes: Sequence[str]) -> timm_models.Built:
        """See ``Network.build``."""
        return timm_models.build(base.model, base.weights, base.image_size, num_classes=len(classes), drop_path=0.1)

    def backbone(self, base: ConformerBase, classes: Sequence[str]) -> Normalised:
        """See ``Family.backbone``."""
        from lungtune.layers import network

        model = super().backbone(base, classes)
        model.drop_path = network.DropPath(model.net)
        return model

    def prepare(self, model: Normalised, params: ConformerParams) -> None:
        """See ``Network.prepare``."""
        model.drop_path.set(params.drop_path)

    def run(self, model: Normalised, params: ConformerParams, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """See ``Network.run``."""
        convolutions, transformer = model(images)
        return {"logits": convolutions + transformer, "convolutions": convolutions, "transformer": transformer}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, layout: BatchLayout) -> torch.Tensor:
        """See ``Family.loss``: the mean of both heads'."""
        losses = [self.tasks[0].loss({"logits": outputs[name]}, batch, layout) for name in _BRANCHES]
        return (losses[0] + losses[1]) / 2

    def export(
        self,
        base: ConformerBase,
        params: ConformerParams,
        classes: Sequence[str],
        adapter: dict[str, torch.Tensor],
        folder: Path,
    ) -> None:
        """See ``Family.export``: a program for torch alone."""
        from lungtune.models import grey_images, timm_export

        _, built = self.trained_model(base, classes, adapter)
        what = "A Conformer (Peng et al. 2021): it puts out the sum of its heads' logits, and those of either head."
        program = grey_images.Outputs(built.model, _summed)
        timm_export.write_program(program, built, base.image_size, classes, folder, what)


def _summed(logits: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return logits[0] + logits[1], *logits


FAMILY = Conformer()
