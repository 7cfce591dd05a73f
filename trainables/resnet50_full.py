"""ResNet-50 whose head, last stage or every layer trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lungtune.core.params import param
from lungtune.models import timm_models, whole_network

if TYPE_CHECKING:
    from lungtune.models.grey_images import Normalised

_UNFREEZE = {"head": ("net.fc.",), "last_stage": ("net.fc.", "net.layer4."), "all": ("",)}


@dataclass(frozen=True)
class ResNetBase:
    """The pretrained ResNet."""

    model: str = param("resnet50", help="timm's name of the architecture; not read when weights is a folder")
    weights: str = param(
        "default", help="tag of timm's or default, a shipped base, a folder in timm's format, a weights file, or random"
    )
    image_size: int = param(224, low=16, high=1024, unit="px", help="side of the square input image")


@dataclass(frozen=True)
class ResNetParams(whole_network.NetworkParams):
    """Hyperparameters of a trial."""

    drop_rate: float = param(0.0, low=0.0, high=0.9, help="share of the pooled features dropped in training")
    unfreeze: str = param(
        "all", choices=tuple(_UNFREEZE), structural=True, help="what trains; the rest is frozen, its batch norm too"
    )


class ResNet(whole_network.Network):
    """He et al., "Deep Residual Learning for Image Recognition" (arXiv 1512.03385)."""

    summary: ClassVar[str] = "ResNet-50, fine-tuned as a whole or from its last stage on"
    Base = ResNetBase
    Params = ResNetParams
    small = ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]})

    def build(self, base: ResNetBase, classes: Sequence[str]) -> timm_models.Built:
        """See ``Network.build``: its stages have a ResNet's names."""
        return timm_models.having(super().build(base, classes), "layer4", "a ResNet of timm's")

    def trained(self, model: Normalised, params: ResNetParams) -> Callable[[str], bool]:
        """See ``Network.trained``."""
        prefixes = _UNFREEZE[params.unfreeze]
        return lambda name: name.startswith(prefixes)

    def prepare(self, model: Normalised, params: ResNetParams) -> None:
        """See ``Network.prepare``."""
        model.net.drop_rate = params.drop_rate


FAMILY = ResNet()
