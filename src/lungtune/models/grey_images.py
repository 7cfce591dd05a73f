"""Wrapper of image models: takes grey pixels in [0, 1] and applies the pretraining's normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lungtune.layers.network import DropPath
from lungtune.models import timm_models


class Normalised(nn.Module):
    """A model behind its normalisation of pixels.

    Attributes:
        net: the model, as its library builds it.
        mean, std: of one grey channel.
        width: size of ``embed``; set by families that use it.
        drop_path: stochastic depth of the model; set by families that use it.
    """

    net: Any
    width: int
    drop_path: DropPath

    def __init__(self, built: timm_models.Built) -> None:
        super().__init__()
        self.net = built.model
        self.mean, self.std = float(built.mean[0]), float(built.std[0])

    def forward(self, images: Tensor) -> Any:
        """Run the model on images ``(N, 1, H, W)`` in [0, 1]."""
        return self.net(self.pixels(images))

    def pixels(self, images: Tensor) -> Tensor:
        """Return normalised images."""
        return (images - self.mean) / self.std

    def embed(self, images: Tensor) -> Tensor:
        """Return what the classifier of timm's models would see, ``(N, width)``."""
        embedded: Tensor = self.net.forward_head(self.net.forward_features(self.pixels(images)), pre_logits=True)
        return embedded


@torch.no_grad()
def width(model: Normalised, image_size: int) -> int:
    """Return the size of ``embed``'s output for one image."""
    return int(model.embed(torch.zeros(1, 1, image_size, image_size)).shape[1])


class Outputs(nn.Module):
    """A model whose outputs are converted to another form.

    Args:
        net: the model.
        form: from what it returns to a tuple of tensors.
    """

    def __init__(self, net: nn.Module, form: Callable[[Any], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.net = net
        self._form = form

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the model."""
        return self._form(self.net(images))
