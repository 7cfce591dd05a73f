"""Export of trained image models that timm, or torch alone, can load."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lungtune.models import timm_models
from lungtune.models.snippets import activation

_README = """\
# A chest X-ray classifier

{what} `classes.json` holds the classes.

Classify an 8-bit image with `pip install {needs}` and nothing else:

```python
{snippet}
```

Not a medical device: research use only.
"""

_PICTURE = """\
import json, sys
from pathlib import Path
import {library}
from PIL import Image, ImageOps
from torchvision.transforms.functional import to_tensor
folder, picture = sys.argv[1:]
picture = ImageOps.pad(Image.open(picture).convert("L"), ({size}, {size}), Image.Resampling.LANCZOS, color=0)
image = (to_tensor(picture) - {mean:.9g}).div({std:.9g}).unsqueeze(0)
"""

_CLASSES = """
classes = json.loads(Path(folder, "classes.json").read_text())["classes"]
print(json.dumps(dict(zip(classes, logits.{activation}[0].tolist()))))"""

_TIMM = """\
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
with torch.no_grad():
    logits = model(image)"""

_HEAD = """\
model, head = timm.create_model(f"local-dir:{folder}", pretrained=True).eval(), load_file(f"{folder}/head.safetensors")
with torch.no_grad():
    x = model(image)
    logits = x @ head["head.weight"] + head["head.bias"]
    if "hidden.head" in head:
        logits += torch.nn.functional.gelu(x @ head["hidden.weight"] + head["hidden.bias"]) @ head["hidden.head"]"""

_PROGRAM = """\
with torch.no_grad():
    logits = torch.export.load(f"{folder}/model.pt2").module()(image)[0]"""


def write_timm(
    built: timm_models.Built,
    image_size: int,
    classes: Sequence[str],
    folder: Path,
    head: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model of timm's in its own format for folders, with classes and README.

    Args:
        built: the model for one-channel images, and its pixel statistics.
        image_size: px.
        classes: class names.
        folder: output folder.
        head: parameters of a head over the model's features (``_head.draw``); None: the model has its own.
    """
    _write_model(built, image_size, folder)
    what = "`model.safetensors` and `config.json` are a complete model in timm's format"
    libraries = "timm, torch"
    if head is not None:
        save_file({name: tensor.contiguous() for name, tensor in head.items()}, folder / "head.safetensors")
        libraries += "\nfrom safetensors.torch import load_file"
        what += (
            ", as it was pretrained. `head.safetensors` holds the head over its features x: "
            "`x @ head.weight + head.bias`, plus `gelu(x @ hidden.weight + hidden.bias) @ hidden.head` where there are "
            "hidden units"
        )
    _finish(folder, f"{what}.", "timm", libraries, _TIMM if head is None else _HEAD, built, image_size, classes)


def write_program(
    model: nn.Module, built: timm_models.Built, image_size: int, classes: Sequence[str], folder: Path, what: str
) -> None:
    """Write a network as a program that torch alone runs, with weights, classes and README.

    Args:
        model: normalised images ``(N, 1, S, S)`` to a tuple whose first entry is the logits.
        built: its pixel statistics.
        image_size: px.
        classes: class names.
        folder: output folder.
        what: which network it is, and what else it puts out: a sentence or two.
    """
    model = model.eval()
    images = torch.zeros(2, 1, image_size, image_size)
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("images")},), strict=False)
    torch.export.save(program, folder / "model.pt2")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    what = f"{what} `model.pt2` is the network as a program, `model.safetensors` holds its weights."
    _finish(folder, what, "torch torchvision", "torch", _PROGRAM, built, image_size, classes)


def write_random(architecture: str, settings: Mapping[str, Any], folder: Path) -> None:
    """Write a small model of random weights in timm's format, for tests."""
    from lungtune.models import conformer, lazy_imports

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if architecture in conformer.SIZES:
            model = conformer.conformer(architecture, 1, 0, **settings)
        else:
            model = lazy_imports.timm().create_model(architecture, in_chans=1, num_classes=0, **settings)
        for name, value in model.named_parameters():
            if not value.any() and value.ndim == 1:  # scales initialised at zero would cancel the layers before them
                value.data.fill_(0.5 if name.endswith("weight") else 0.0)
    _write_model(timm_models.Built(model, (0.5,), (0.25,), architecture, settings), 32, folder)


def _write_model(built: timm_models.Built, image_size: int, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model, known = built.model, getattr(built.model, "pretrained_cfg", None) or {}
    config = {
        "architecture": built.architecture,
        "num_classes": getattr(model, "num_classes", 0),
        "model_args": dict(built.settings),
        "pretrained_cfg": {
            "input_size": [1, image_size, image_size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "mean": list(built.mean),
            "std": list(built.std),
            "num_classes": getattr(model, "num_classes", 0),
            "first_conv": known.get("first_conv", "conv1"),
            "classifier": known.get("classifier"),
        },
    }
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _finish(
    folder: Path,
    what: str,
    needs: str,
    libraries: str,
    run: str,
    built: timm_models.Built,
    image_size: int,
    classes: Sequence[str],
) -> None:
    picture = _PICTURE.format(library=libraries, size=image_size, mean=built.mean[0], std=built.std[0])
    text = _README.format(
        what=what, needs=needs, snippet=picture + run + _CLASSES.format(activation=activation(classes))
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    names = json.dumps({"classes": list(classes)}, indent=2, ensure_ascii=False)
    (folder / "classes.json").write_text(names + "\n", encoding="utf-8")
