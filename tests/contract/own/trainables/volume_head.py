"""Head on a frozen 3D network: volumes ``(N, 1, D, H, W)``, one class per case."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.family import Family
from lungtune.core.fields import VOLUME
from lungtune.core.params import param
from lungtune.models import feature_head
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

_README = """# A classifier of volumes

```python
import json, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_file
folder, file = sys.argv[1:]
nn = torch.nn
net = nn.Sequential(nn.Conv3d(1, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten())
state = load_file(f"{folder}/model.safetensors")
net.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name.startswith("net.")})
with torch.no_grad():
    x = 20 * net(torch.from_numpy(np.load(file)).float()[None, None] / 255)
    logits = x @ state["head.weight"] + state["head.bias"]
classes = json.loads(Path(folder, "classes.json").read_text())["classes"]
print(json.dumps(dict(zip(classes, logits.softmax(1)[0].tolist()))))
```
"""


@dataclass(frozen=True)
class Base:
    """The frozen network."""

    image_size: int = param(12, low=8, high=64, unit="px", help="side of the cube")
    views: int = param(0, low=0, high=8, help="augmented views of a volume kept for each level; 0 keeps none")
    channels: int = param(8, low=8, high=8, help="features of the frozen convolution")


@dataclass(frozen=True)
class Params(Synthetic, Classes, Loop):
    """Hyperparameters of a trial."""


class VolumeHead(Family[Base, Params]):
    """Random 3D convolutions, frozen, and a linear head."""

    summary = "frozen 3D convolutions with a linear head"
    tasks = (Classification(),)
    inputs = (VOLUME,)
    Base = Base
    Params = Params

    def check(self, base: Base) -> None:
        """No pretrained weights: the network is initialised from a seed."""

    def miniature(self, folder: Path) -> Base:
        """See ``Family.miniature``."""
        return Base()

    def backbone(self, base: Base, classes: Sequence[str]) -> torch.nn.Module:
        """See ``Family.backbone``."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv3d(1, base.channels, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten()
            ).eval()

    def trainable_parameters(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: the head."""
        return feature_head.draw(8 * model[0].out_channels, 0, len(classes), generator)

    def features(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
        """See ``Family.features``."""
        return {"features": 20 * model(batch["volume"]).float()}

    def outputs(self, model: torch.nn.Module, batch: Mapping[str, Any], layout: Any) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        return {"logits": feature_head.linear(batch["features"], layout)}

    def export(
        self, base: Base, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``."""
        from safetensors.torch import save_file

        state = {f"net.{name}": tensor for name, tensor in self.backbone(base, classes).state_dict().items()}
        save_file({**state, **adapter}, folder / "model.safetensors")
        (folder / "classes.json").write_text(json.dumps({"classes": list(classes)}))
        (folder / "README.md").write_text(_README)


FAMILY = VolumeHead()
