"""ConvNeXt trained as a whole, with lower learning rates in lower layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.params import param
from lungtune.models import timm_models, whole_network

if TYPE_CHECKING:
    from lungtune.models.grey_images import Normalised


@dataclass(frozen=True)
class ConvNeXtBase:
    """The pretrained ConvNeXt."""

    model: str = param("convnext_tiny", help="timm's name of the architecture; not read when weights is a folder")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")


@dataclass(frozen=True)
class ConvNeXtParams(whole_network.NetworkParams):
    """Hyperparameters of a trial."""

    drop_path: float = param(
        0.0, low=0.0, high=0.9, help="chance that training skips the last block; falls to zero at the first"
    )
    layer_decay: float = param(
        1.0, low=0.1, high=1.0, help="factor on the learning rate from each layer to the one below it"
    )


class ConvNeXt(whole_network.Network):
    """Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), fine-tuned as there, with layer-wise decay."""

    summary: ClassVar[str] = "ConvNeXt, fine-tuned as a whole; its size is an axis"
    Base = ConvNeXtBase
    Params = ConvNeXtParams
    small = ("convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 8, 16, 16]})

    def build(self, base: ConvNeXtBase, classes: Sequence[str]) -> timm_models.Built:
        """See ``Network.build``; there are layers for stochastic depth."""
        built = timm_models.build(
            base.model, base.weights, base.image_size, num_classes=len(classes), drop_path_rate=0.1
        )
        return timm_models.having(built, "stages", "a ConvNeXt of timm's")

    def backbone(self, base: ConvNeXtBase, classes: Sequence[str]) -> Normalised:
        """See ``Family.backbone``."""
        from lungtune.layers import network

        model = super().backbone(base, classes)
        model.drop_path = network.DropPath(model.net)
        return model

    def prepare(self, model: Normalised, params: ConvNeXtParams) -> None:
        """See ``Network.prepare``."""
        model.drop_path.set(params.drop_path)

    def lr_multipliers(self, model: Normalised, params: ConvNeXtParams) -> Mapping[str, float]:
        """See ``Family.lr_multipliers``: ``layer_decay`` to the power of the layer's distance from the head.

        Layers are grouped as timm groups them (Bao et al., BEiT, arXiv 2106.08254).
        """
        if params.layer_decay == 1.0:
            return {}
        from timm.models import group_parameters

        depths: dict[str, Any] = group_parameters(model.net, model.net.group_matcher(coarse=False), reverse=True)
        top = max(depths.values())
        return {f"net.{name}": params.layer_decay ** (top - depth) for name, depth in depths.items()}


FAMILY = ConvNeXt()
