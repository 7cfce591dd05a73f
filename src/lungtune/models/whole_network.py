"""Base classes of families that train a whole network or its upper part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.core.task import Task
from lungtune.models import timm_models
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from lungtune.inputs.batch import Batch
    from lungtune.layers.layout import BatchLayout
    from lungtune.models.grey_images import Normalised


@dataclass(frozen=True)
class NetworkParams(Synthetic, Classes, Loop):
    """Hyperparameters of a fully trained network."""

    label_smoothing: float = param(
        0.0, low=0.0, high=0.5, help="share of the target that is spread evenly over all classes"
    )


class Network(Family[Any, Any]):
    """A pretrained network with new heads; all parameters train unless ``trained`` restricts them.

    A family gives ``Base`` (with ``model``, ``weights`` and ``image_size``), ``Params``, ``heads`` and ``small``, and
    overrides what is different about it.
    """

    tasks: ClassVar[tuple[Task, ...]] = (Classification(),)
    packs = False
    Params = NetworkParams
    heads: ClassVar[tuple[str, ...]] = ()
    """Names of the Linears that every trial reinitialises; () for the classifier of a timm model."""
    small: ClassVar[tuple[str, Mapping[str, Any]]]
    """Architecture and arguments of the miniature, for images of 32 px."""

    def check(self, base: Any) -> None:
        """See ``Family.check``. Downloads from the hub when it answers within five seconds."""
        timm_models.check(base.model, base.weights)

    def miniature(self, folder: Path) -> Any:
        """See ``Family.miniature``."""
        from lungtune.models import timm_export

        timm_export.write_random(*self.small, folder)
        return self.Base(weights=str(folder), image_size=32)

    def build(self, base: Any, classes: Sequence[str]) -> timm_models.Built:
        """Build the network for so many classes."""
        return timm_models.build(base.model, base.weights, base.image_size, num_classes=len(classes))

    def backbone(self, base: Any, classes: Sequence[str]) -> Normalised:
        """See ``Family.backbone``."""
        from lungtune.models import grey_images

        return grey_images.Normalised(self.build(base, classes))

    def trained(self, model: Normalised, params: Any) -> Callable[[str], bool]:
        """Return which parameters and statistics, by full name, a trial trains."""
        return lambda name: True

    def prepare(self, model: Normalised, params: Any) -> None:
        """Set what the network does differently for each trial, such as its dropout; called before every run."""

    def trainable_parameters(
        self, model: Normalised, params: Any, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``."""
        from lungtune.layers import network

        own = network.parameters(model, self.trained(model, params))
        heads = self.heads or _classifier(model.net)
        network.redraw(own, [f"net.{head}" for head in heads], generator)
        return own

    def statistics(self, model: Normalised, params: Any) -> Sequence[str]:
        """See ``Family.statistics``."""
        from lungtune.layers import network

        return network.statistics(model, self.trained(model, params))

    def run(self, model: Normalised, params: Any, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Run the network for one trial; see ``Family.outputs``."""
        return {"logits": model(images)}

    def outputs(self, model: Normalised, batch: Batch, layout: BatchLayout) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        from lungtune.layers import network

        def call(params: Any, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
            self.prepare(model, params)
            return self.run(model, params, rows)

        return network.run(model, batch["image"], layout, call)

    def trained_model(
        self, base: Any, classes: Sequence[str], adapter: Mapping[str, torch.Tensor]
    ) -> tuple[torch.nn.Module, timm_models.Built]:
        """Return the network behind its normalisation with what a trial trained, and how it was built."""
        from lungtune.models import grey_images

        built = self.build(base, classes)
        model = grey_images.Normalised(built)
        missing = set(adapter) - set(model.state_dict())
        if missing:
            raise ValueError(f"all that was trained must be part of the network, but these are not: {sorted(missing)}")
        model.load_state_dict(adapter, strict=False)
        return model, built

    def export(
        self, base: Any, params: Any, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``: timm's format."""
        from lungtune.models import timm_export

        _, built = self.trained_model(base, classes, adapter)
        timm_export.write_timm(built, base.image_size, classes, folder)


def _classifier(net: Any) -> tuple[str, ...]:
    name = net.pretrained_cfg["classifier"]
    return (name,) if isinstance(name, str) else tuple(name)
