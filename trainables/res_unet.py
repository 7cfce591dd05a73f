"""Res-UNet that classifies and segments; the weight of segmentation is searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.params import param
from lungtune.errors import SpaceError
from lungtune.models import timm_models, whole_network
from lungtune.tasks.classification import Classification
from lungtune.tasks.segmentation import Segmentation

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.grey_images import Normalised

_DECODER = ("net.decoder.", "net.mask.")


@dataclass(frozen=True)
class ResUnetBase:
    """The pretrained encoder and the decoder's width."""

    model: str = param("resnet50", help="timm's name of the encoder; not read when weights is a folder")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=32, high=1024, unit="px", help="side of the square input image, a multiple of 32")
    decoder_width: int = param(16, low=1, high=256, unit="channels", help="width of the decoder's last block")


@dataclass(frozen=True)
class ResUnetParams(whole_network.NetworkParams):
    """Hyperparameters of a trial."""

    lambda2: float = param(
        0.01,
        low=0.0,
        high=1000.0,
        structural=(0.0,),
        help="weight of 1 - Dice beside the cross-entropy; 0: no decoder is trained",
    )
    drop_rate: float = param(0.0, low=0.0, high=0.9, help="share of the pooled features dropped in training")


class ResUnet(whole_network.Network):
    """U-Net (Ronneberger et al., arXiv 1505.04597) on a ResNet, with a class head on the deepest map.

    The loss is ``cross-entropy + lambda2 (1 - Dice)``; cases without a mask count in the first term only.
    """

    summary: ClassVar[str] = "Res-UNet: lung segmentation as a second task, its weight lambda2 searched"
    tasks = (Classification(), Segmentation())
    ablation: ClassVar[Mapping[str, Any]] = {"lambda2": 0.0}
    Base = ResUnetBase
    Params = ResUnetParams
    heads = ("head",)
    small = ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})

    def miniature(self, folder: Path) -> ResUnetBase:
        """See ``Family.miniature``."""
        return dataclasses.replace(super().miniature(folder), decoder_width=2)

    def build(self, base: ResUnetBase, classes: Sequence[str]) -> timm_models.Built:
        """See ``Network.build``."""
        import torch

        from lungtune.models import unet

        built = timm_models.build(base.model, base.weights, base.image_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                return built._replace(model=unet.ClassifyingUnet(built.model, len(classes), base.decoder_width))
            except (AssertionError, IndexError, AttributeError) as error:  # timm's, of networks built otherwise
                name = built.architecture
                raise SpaceError(f"model must have five maps, as a ResNet has, but got {name}.") from error

    def trained(self, model: Normalised, params: ResUnetParams) -> Callable[[str], bool]:
        """See ``Network.trained``: a decoder whose loss does not count stays out."""
        return lambda name: params.lambda2 > 0 or not name.startswith(_DECODER)

    def trainable_parameters(
        self, model: Normalised, params: ResUnetParams, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``; the decoder is reinitialised."""
        from lungtune.models import unet

        own = dict(super().trainable_parameters(model, params, classes, generator))
        unet.redraw(own, generator)
        return own

    def prepare(self, model: Normalised, params: ResUnetParams) -> None:
        """See ``Network.prepare``."""
        model.net.drop.p = params.drop_rate

    def run(self, model: Normalised, params: ResUnetParams, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """See ``Network.run``: ``mask`` are logits ``(N, 1, H, W)``, NaN from a trial without a decoder."""
        logits, mask = model.net(model.pixels(images), segment=params.lambda2 > 0)
        return {"logits": logits, "mask": images.new_full(images.shape, float("nan")) if mask is None else mask}

    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Batch, layout: BatchLayout) -> torch.Tensor:
        """See ``Family.loss``."""
        import torch

        classification, segmentation = (task.loss(outputs, batch, layout) for task in self.tasks)
        weights = torch.tensor([p.lambda2 for p in layout.params]).repeat_interleave(torch.tensor(layout.counts))
        weights = weights.to(classification.device)
        return classification + torch.where(weights > 0, weights * segmentation, 0.0)

    def export(
        self,
        base: ResUnetBase,
        params: ResUnetParams,
        classes: Sequence[str],
        adapter: dict[str, torch.Tensor],
        folder: Path,
    ) -> None:
        """See ``Family.export``: a program for torch alone."""
        from lungtune.models import grey_images, timm_export

        _, built = self.trained_model(base, classes, adapter)
        segments = params.lambda2 > 0
        more = " and those of the lung mask" if segments else ""
        what = f"A Res-UNet: it puts out the logits of the classes{more}."
        program = grey_images.Outputs(built.model, lambda outputs: outputs if segments else outputs[:1])
        timm_export.write_program(program, built, base.image_size, classes, folder, what)


FAMILY = ResUnet()
