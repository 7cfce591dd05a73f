"""U-Net with a class head: a timm encoder and segmentation-models-pytorch's decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lungtune.models import lazy_imports

with lazy_imports.without_compiler():
    from segmentation_models_pytorch.base import SegmentationHead
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

_WIDTHS = (16, 8, 4, 2, 1)


class ClassifyingUnet(nn.Module):
    """One encoder, two tasks.

    Args:
        net: a model of timm's whose ``feature_info`` names five maps.
        classes: outputs of the class head.
        width: channels of the decoder's last block; the others have 2, 4, 8 and 16 times as many.
    """

    def __init__(self, net: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        from timm.models._features import FeatureListNet

        self.encoder = FeatureListNet(net, out_indices=tuple(range(len(_WIDTHS))))
        channels = self.encoder.feature_info.channels()
        self.decoder = UnetDecoder((1, *channels), [width * factor for factor in _WIDTHS], n_blocks=len(_WIDTHS))
        self.mask = SegmentationHead(width, 1)
        self.drop = nn.Dropout(0.0)
        self.head = nn.Linear(channels[-1], classes)

    def forward(self, images: Tensor, segment: bool = True) -> tuple[Tensor, Tensor | None]:
        """Return class logits ``(N, classes)`` and mask logits ``(N, 1, H, W)``, None without ``segment``."""
        maps = self.encoder(images)
        logits = self.head(self.drop(maps[-1].mean((2, 3))))
        return logits, self.mask(self.decoder([images, *maps])) if segment else None


@torch.no_grad()
def redraw(own: dict[str, Tensor], generator: torch.Generator) -> None:
    """Reinitialise the decoder's kernels in place by He's uniform scheme, as its library does."""
    for name, value in own.items():
        if name.startswith(("net.decoder.", "net.mask.")) and value.ndim == 4:
            bound = (6.0 / value[0].numel()) ** 0.5
            value.uniform_(-bound, bound, generator=generator)
