"""Export of trained adapters in diffusers' LoRA format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lungtune.core.io import write_atomic
from lungtune.errors import WeightsError
from lungtune.models import diffusion_weights as weights
from lungtune.models.diffusion_model import SAMPLERS, SPACING, diffusers

_PREFIX = "base_model.model."
_PARTS = ("unet", "text_encoder")

_README = """\
# A generator of chest X-rays

LoRA adapters for {base}, in diffusers' format; `captions.json` holds what each class is called.

Draw an image with `pip install diffusers transformers peft` and nothing else:

```python
{snippet}
```

Adapters of the text encoder have the names of transformers 5. The images are synthetic: they may show what no patient
has, and leave out what patients have. Not a medical device: research use only.
"""

SNIPPET = """\
import json, sys
from pathlib import Path
import diffusers, torch
from PIL import Image
base, folder, name, seed, picture = sys.argv[1:]
pipe = diffusers.StableDiffusionPipeline.from_pretrained(
    base, dtype=torch.float32, safety_checker=None{variant})
pipe.scheduler = diffusers.{sampler}.from_config(
    json.loads(Path(folder, "scheduler_config.json").read_text()), clip_sample=False{spacing})
pipe.load_lora_weights(folder)
image = pipe(json.loads(Path(folder, "captions.json").read_text())[name], height={size}, width={size},
             num_inference_steps={steps}, guidance_scale={guidance:.9g}, output_type="np",
             generator=torch.Generator().manual_seed(int(seed))).images[0]
Image.fromarray((image.mean(-1) * 255).round().astype("uint8")).save(picture)"""


def write(
    base: Any,
    params: Any,
    captions: Sequence[str],
    classes: Sequence[str],
    adapter: dict[str, Tensor],
    folder: Path,
) -> None:
    """Write adapters, captions and README into ``folder``, and read the adapters back as diffusers does.

    Args:
        base: ``SdLoraBase``.
        params: ``SdLoraParams``.
        captions: what the trial calls each class.
        classes: class names.
        adapter: what ``Pack.adapter`` returned.
        folder: output folder.

    Raises:
        WeightsError: diffusers would not load every adapter.
    """
    from peft import LoraConfig

    home = weights.find(base.weights, fetch=False)
    layers: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    for name, tensor in adapter.items():
        part, _, rest = name.removeprefix(_PREFIX).partition(".")
        layers[part][rest] = tensor.contiguous()
    settings = {}
    for part, mine in layers.items():
        names = sorted({name.rpartition(".lora_")[0] for name in mine})
        settings[part] = LoraConfig(r=params.lora_rank, lora_alpha=params.lora_alpha, target_modules=names).to_dict()
        settings[part]["target_modules"] = names  # a set, which JSON has not
    text = layers["text_encoder"] or None
    diffusers.StableDiffusionPipeline.save_lora_weights(
        str(folder),
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=text,
        unet_lora_adapter_metadata=settings["unet"],  # without it diffusers ignores alpha
        text_encoder_lora_adapter_metadata=settings["text_encoder"] if text else None,
    )
    _read_back(home, adapter, folder)
    snippet = SNIPPET.format(
        variant="" if weights.variant(home) is None else ", variant='fp16'",
        sampler=SAMPLERS[params.sampler],
        spacing="".join(f", {key}={value!r}" for key, value in SPACING[params.sampler].items()),
        size=base.image_size,
        steps=params.sampler_steps,
        guidance=params.guidance,
    )
    settings_of = home / "scheduler" / "scheduler_config.json"
    write_atomic(folder / settings_of.name, settings_of.read_bytes())
    write_atomic(folder / "captions.json", json.dumps(dict(zip(classes, captions, strict=True)), indent=1).encode())
    write_atomic(folder / "classes.json", json.dumps({"classes": list(classes)}).encode())
    (folder / "README.md").write_text(_README.format(base=base.weights, snippet=snippet), encoding="utf-8")


def _read_back(home: Path, adapter: dict[str, Tensor], folder: Path) -> None:
    """Load the adapters into the plain networks and compare.

    Raises:
        WeightsError: one is missing or changed.
    """
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        home,
        vae=None,
        safety_checker=None,
        feature_extractor=None,
        local_files_only=True,
        dtype=torch.float32,
        variant=weights.variant(home),
    )
    for part in _PARTS:
        getattr(pipe, part).float()  # transformers goes by the folder's own type
    pipe.load_lora_weights(str(folder))
    held = {
        f"{_PREFIX}{part}.{name.replace('.default_0.', '.')}": value
        for part in _PARTS
        for name, value in getattr(pipe, part).named_parameters()
        if ".lora_" in name
    }
    wrong = sorted(held.keys() ^ adapter.keys())
    wrong += [name for name in held.keys() & adapter.keys() if not adapter[name].equal(held[name].cpu())]
    if wrong:
        raise WeightsError(
            f"diffusers must load every adapter as it was trained, but {len(wrong)} of {len(adapter)} differ or are "
            f"missing: {wrong[0]}. This is a fault of lungtune or of the installed diffusers."
        )
