"""Small convolutional network for colour images ``(N, 3, H, W)``, trained as a whole with batch norm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.family import Family
from lungtune.core.fields import COLOUR
from lungtune.core.params import param
from lungtune.models.params import Classes, Loop, Synthetic
from lungtune.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

_README = """# A classifier of colour images

```python
import json, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
folder, file = sys.argv[1:]
classes = json.loads(Path(folder, "classes.json").read_text())["classes"]
net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.0), nn.AdaptiveAvgPool2d(2),
                    nn.Flatten(), nn.Linear(32, len(classes))).eval()
net.load_state_dict(load_file(f"{folder}/model.safetensors"))
with torch.no_grad():
    pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    print(json.dumps(dict(zip(classes, net(pixels).softmax(1)[0].tolist()))))
```
"""


@dataclass(frozen=True)
class Base:
    """The network."""

    image_size: int = param(16, low=8, high=256, unit="px", help="side of the square image")


@dataclass(frozen=True)
class Params(Synthetic, Classes, Loop):
    """Hyperparameters of a trial."""

    drop_rate: float = param(0.0, low=0.0, high=0.9, help="share of features dropped in training")


class ColourFull(Family[Base, Params]):
    """All of it trains."""

    summary = "a small convolutional network of colour images"
    tasks = (Classification(),)
    inputs = (COLOUR,)
    packs = False
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
                nn.Conv2d(3, 8, 3, 2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(32, len(classes)),
            ).eval()

    def trainable_parameters(
        self, model: torch.nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        """See ``Family.trainable_parameters``: all of the network, its last layer reinitialised."""
        from lungtune.layers import network

        own = network.parameters(model, lambda name: True)
        network.redraw(own, ["6"], generator)
        return own

    def statistics(self, model: torch.nn.Module, params: Params) -> Sequence[str]:
        """See ``Family.statistics``."""
        from lungtune.layers import network

        return network.statistics(model, lambda name: True)

    def outputs(self, model: torch.nn.Module, batch: Mapping[str, Any], layout: Any) -> Mapping[str, torch.Tensor]:
        """See ``Family.outputs``."""
        from lungtune.layers import network

        def call(params: Params, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
            model[3].p = params.drop_rate
            return {"logits": model(rows)}

        return network.run(model, batch["image"], layout, call)

    def export(
        self, base: Base, params: Params, classes: Sequence[str], adapter: dict[str, torch.Tensor], folder: Path
    ) -> None:
        """See ``Family.export``."""
        from safetensors.torch import save_file

        save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "model.safetensors")
        (folder / "classes.json").write_text(json.dumps({"classes": list(classes)}))
        (folder / "README.md").write_text(_README)


FAMILY = ColourFull()
