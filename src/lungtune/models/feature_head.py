"""Classifier head over features: linear probe, optionally with a hidden layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.models import timm_models
from lungtune.models.params import Classes, Loop, Smote, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.grey_images import Normalised


@dataclass(frozen=True)
class HeadParams(Smote, Synthetic, Classes, Loop):
    """Hyperparameters of a feature head."""

    hidden: int = param(
        256, low=0, high=4096, unit="units", structural=True, help="hidden units beside the linear map; 0: linear probe"
    )
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


def linear(x: torch.Tensor, layout: BatchLayout) -> torch.Tensor:
    """Return ``x W + b`` of features ``(N, width)``, ``(N, classes)``."""
    import torch

    with torch.autocast(x.device.type, enabled=False):  # a head costs nothing; bf16 would cost digits
        return layout.affine(x, layout.parameter("head.weight"), layout.parameter("head.bias"))


def scores(inputs: torch.Tensor, layout: BatchLayout) -> torch.Tensor:
    """Return logits ``(N, classes)``: ``x W + b``, plus ``gelu(x U + u) V`` where there are hidden units.

    Args:
        inputs: features ``(N, width)``.
        layout: whose ``Params`` have ``hidden`` and ``dropout``.
    """
    import torch

    with torch.autocast(inputs.device.type, enabled=False):
        x = layout.dropout(inputs, [p.dropout for p in layout.params])
        logits = linear(x, layout)
        if not any(p.hidden for p in layout.params):
            return logits
        hidden = layout.affine(x, layout.parameter("hidden.weight"), layout.parameter("hidden.bias"))
        return logits + layout.matmul(torch.nn.functional.gelu(hidden), layout.parameter("hidden.head"))


class ImageHead(Family[Any, Any]):
    """A head on a frozen model of timm's, which stays in eval mode: batch norm uses its pretrained statistics.

    A family gives ``Base`` (with ``model``, ``weights``, ``image_size`` and ``views``), ``Params`` and ``small``.
    """

    tasks = (Classification(),)
    Params = HeadParams
    small: ClassVar[tuple[str, Mapping[str, Any]]]
    """Architecture and arguments of the miniature, for images of 32 px."""

    def check(self, base: Any) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds."""
        timm_models.check(base.model, base.weights)

    def miniature(self, folder: Path) -> Any:
        """See ``Family.miniature``."""
        from lungtune.models import timm_export

        timm_export.write_random(*self.small, folder)
        return self.Base(weights=str(folder), image_size=32, views=0)

    def backbone(self, base: Any, classes: Sequence[str]) -> Normalised:
        """See ``Family.backbone``."""
        from lungtune.models import grey_images

        built = timm_models.build(base.model, base.weights, base.image_size)
        model = grey_images.Normalised(timm_models.having(built, "forward_head", "one of timm's"))
        model.width = grey_images.width(model, base.image_size)
        return model

    def trainable_parameters(
        self, model: Normalised, params: HeadParams, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``."""
        return draw(model.width, params.hidden, len(classes), generator)

    def features(self, model: Normalised, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``: ``features`` ``(N, width)`` float32."""
        return {"features": model.embed(batch["image"]).float()}

    def outputs(self, model: Normalised, batch: Batch, layout: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"logits": scores(batch["features"], layout)}

    def export(
        self, base: Any, params: HeadParams, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``: timm's format, with the head in a separate file."""
        from lungtune.models import timm_export

        built = timm_models.build(base.model, base.weights, base.image_size)
        timm_export.write_timm(built, base.image_size, classes, folder, head=adapter)
