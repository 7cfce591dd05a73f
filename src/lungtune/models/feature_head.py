"""A classifier head over features: the linear probe, and a hidden layer beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import Classifier
from lungtune.core.params import param
from lungtune.models import timm_models
from lungtune.models.params import Loop, Synthetic

if TYPE_CHECKING:
    import torch

    from lungtune.layers.layout import BatchLayout


@dataclass(frozen=True)
class Params(Synthetic, Loop):
    """What one trial of a head chooses."""

    hidden: int = param(256, low=0, high=4096, unit="units", help="hidden units beside the linear map; 0: linear probe")
    dropout: float = param(0.0, low=0.0, high=0.9, help="share of the features dropped in training")


def draw(width: int, hidden: int, classes: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Return a head's parameters: matrices ``(in, out)`` and biases, uniform within 1 / sqrt(in) as torch's Linear."""
    import torch

    def uniform(size: int, *shape: int) -> torch.Tensor:
        return torch.empty(shape).uniform_(-(size**-0.5), size**-0.5, generator=generator)

    head = {"head.weight": uniform(width, width, classes), "head.bias": torch.zeros(classes)}
    if not hidden:
        return head
    return head | {
        "hidden.weight": uniform(width, width, hidden),
        "hidden.bias": torch.zeros(hidden),
        "hidden.head": uniform(hidden, hidden, classes),
    }


def linear(x: torch.Tensor, slots: BatchLayout) -> torch.Tensor:
    """Return ``x W + b`` of features ``(N, width)``, ``(N, classes)``."""
    import torch

    with torch.autocast(x.device.type, enabled=False):  # a head costs nothing; bf16 would cost digits
        return slots.affine(x, slots.own("head.weight"), slots.own("head.bias"))


def scores(inputs: torch.Tensor, slots: BatchLayout) -> torch.Tensor:
    """Return logits ``(N, classes)``: ``x W + b``, plus ``gelu(x U + u) V`` where there are hidden units.

    Args:
        inputs: features ``(N, width)``.
        slots: whose ``Params`` have ``hidden`` and ``dropout``.
    """
    import torch

    with torch.autocast(inputs.device.type, enabled=False):
        x = slots.dropout(inputs, [p.dropout for p in slots.params])
        logits = linear(x, slots)
        if not any(p.hidden for p in slots.params):
            return logits
        hidden = slots.affine(x, slots.own("hidden.weight"), slots.own("hidden.bias"))
        return logits + slots.matmul(torch.nn.functional.gelu(hidden), slots.own("hidden.head"))


class ImageHead(Classifier):
    """A head on a frozen model of timm's, which stays in eval mode: batch norm uses what it learned in pretraining.

    A family gives ``Base`` (with ``model``, ``weights``, ``image_size`` and ``views``), ``Params`` and ``small``.
    """

    Params: ClassVar[type] = Params
    small: ClassVar[tuple[str, Mapping[str, Any]]]
    """Architecture and arguments of the miniature, for images of 32 px."""

    def check(self, base: Any) -> None:
        """See ``Trainable.check``. Downloads from the hub when it answers within five seconds."""
        timm_models.check(base.model, base.weights)

    def miniature(self, folder: Path) -> Any:
        """See ``Trainable.miniature``."""
        from lungtune.models import timm_export

        timm_export.write_random(*self.small, folder)
        return self.Base(weights=str(folder), image_size=32, views=0)

    def backbone(self, base: Any, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Trainable.backbone``."""
        from lungtune.models import grey_images

        built = timm_models.build(base.model, base.weights, base.image_size)
        model = grey_images.Normalised(timm_models.having(built, "forward_head", "one of timm's"))
        model.width = grey_images.width(model, base.image_size)
        return model

    def own(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Trainable.own``."""
        return draw(model.width, params.hidden, len(classes), generator)

    def features(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """See ``Trainable.features``: ``(N, width)`` float32."""
        return model.embed(images).float()

    def outputs(self, model: torch.nn.Module, inputs: torch.Tensor, slots: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Trainable.outputs``."""
        return {"logits": scores(inputs, slots)}

    def export(
        self, base: Any, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Trainable.export``: timm's format, the head beside it."""
        from lungtune.models import timm_export

        built = timm_models.build(base.model, base.weights, base.image_size)
        timm_export.write_timm(built, base.image_size, classes, folder, head=adapter)
