"""Export of an adapted CLIP that open_clip alone can load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lungtune.core.fields import Labels
from lungtune.layers import attention
from lungtune.models import clip_model
from lungtune.models.clip_prompts import negative_prompts, prompts
from lungtune.models.snippets import activation

_README = """\
# A chest X-ray classifier: CLIP with merged LoRA weights

`open_clip_model.safetensors` and `open_clip_config.json` are a complete CLIP in open_clip's local-dir format, with the
adapters merged in. `classes.json` holds the classes and the captions each is scored against; `adapter.safetensors` and
`adapter_config.json` hold the adapters by themselves, in PEFT's naming, for a CLIP whose attention is split into
`q_proj`, `k_proj`, `v_proj` and `out_proj`.

Classify an 8-bit image with `pip install open-clip-torch` and nothing else:

```python
{snippet}
```

Not a medical device: research use only.
"""

SNIPPET = """\
import json, sys
from pathlib import Path
import open_clip, torch
from PIL import Image
folder, picture = sys.argv[1:]
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
tokenize, spec = open_clip.get_tokenizer(f"local-dir:{folder}"), json.loads(Path(folder, "classes.json").read_text())
with torch.no_grad():
    means = [model.encode_text(tokenize(p), normalize=True).mean(0) for p in spec["prompts"]]
    image = model.encode_image(preprocess(Image.open(picture).convert("L")).unsqueeze(0), normalize=True)
    logits = model.logit_scale.exp() * image @ torch.nn.functional.normalize(torch.stack(means), dim=1).T
print(json.dumps(dict(zip(spec["classes"], logits.softmax(1)[0].tolist()))))"""

LABELS_SNIPPET = """\
import json, sys
from pathlib import Path
import open_clip, torch
from PIL import Image
folder, picture = sys.argv[1:]
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
tokenize, spec = open_clip.get_tokenizer(f"local-dir:{folder}"), json.loads(Path(folder, "classes.json").read_text())
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open(picture).convert("L")).unsqueeze(0), normalize=True)
    cosines = []
    for captions in (spec["prompts"], spec["absent"]):
        means = [model.encode_text(tokenize(p), normalize=True).mean(0) for p in captions]
        cosines.append(image @ torch.nn.functional.normalize(torch.stack(means), dim=1).T)
    logits = model.logit_scale.exp() * (cosines[0] - cosines[1])
print(json.dumps(dict(zip(spec["classes"], logits.sigmoid()[0].tolist()))))"""


_HEAD_README = """\
# A chest X-ray classifier: CLIP's image tower and a trained head

`open_clip_model.safetensors` and `open_clip_config.json` are a complete CLIP in open_clip's local-dir format, as it
was pretrained. `head.safetensors` holds the head over the tower's features x, taken before their projection:
`x @ head.weight + head.bias`, plus `gelu(x @ hidden.weight + hidden.bias) @ hidden.head` where there are hidden units.
`classes.json` holds the classes.

Classify an 8-bit image with `pip install open-clip-torch` and nothing else:

```python
{snippet}
```

Not a medical device: research use only.
"""

_HEAD_SNIPPET = """\
import json, sys
from pathlib import Path
import open_clip, torch
from PIL import Image
from safetensors.torch import load_file
folder, picture = sys.argv[1:]
model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
model.visual.proj, head = None, load_file(f"{folder}/head.safetensors")
with torch.no_grad():
    x = model.encode_image(preprocess(Image.open(picture).convert("L")).unsqueeze(0))
    logits = x @ head["head.weight"] + head["head.bias"]
    if "hidden.head" in head:
        logits += torch.nn.functional.gelu(x @ head["hidden.weight"] + head["hidden.bias"]) @ head["hidden.head"]
classes = json.loads(Path(folder, "classes.json").read_text())["classes"]
print(json.dumps(dict(zip(classes, logits.ACTIVATION[0].tolist()))))"""


def head_snippet(classes: Sequence[str]) -> str:
    """Return the code of a head's README."""
    return _HEAD_SNIPPET.replace("ACTIVATION", activation(classes))


def write(base: Any, params: Any, classes: Sequence[str], adapter: dict[str, Tensor], folder: Path) -> None:
    """Write merged weights, adapter, captions and README into ``folder``.

    Args:
        base: the family's ``Base``.
        params: the trial's ``Params``.
        classes: class names.
        adapter: what ``Pack.adapter`` returned.
        folder: created if missing.
    """
    clip = clip_model.plain_clip(base)
    mean, std = clip_model.pixel_statistics(clip)
    attention.split(clip)
    scale = params.lora_alpha / params.lora_rank
    for name in [n for n in adapter if n.endswith(".lora_A.weight")]:
        linear = _linear(clip, name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        down, up = adapter[name], adapter[name.replace(".lora_A.", ".lora_B.")]
        with torch.no_grad():
            linear.weight += scale * (up.double() @ down.double()).to(linear.weight)
    clip_model.write_clip(attention.merge_state(clip.state_dict()), clip_model.config_of(base), mean, std, folder)
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter.safetensors")
    _dump(folder / "adapter_config.json", _adapter_config(params, adapter))
    captions: dict[str, Any] = {"classes": list(classes), "prompts": prompts(classes, params.prompt_style)}
    snippet = SNIPPET
    if isinstance(classes, Labels):
        captions["absent"], snippet = negative_prompts(classes, params.prompt_style), LABELS_SNIPPET
    _dump(folder / "classes.json", captions)
    (folder / "README.md").write_text(_README.format(snippet=snippet))


def write_head(base: Any, classes: Sequence[str], head: dict[str, Tensor], folder: Path) -> None:
    """Write the pretrained CLIP, a head over its image tower, classes and README into ``folder``.

    Args:
        base: the family's ``Base``.
        classes: class names.
        head: what ``Pack.adapter`` returned.
        folder: created if missing.
    """
    clip = clip_model.plain_clip(base)
    clip_model.write_clip(clip.state_dict(), clip_model.config_of(base), *clip_model.pixel_statistics(clip), folder)
    save_file({name: tensor.contiguous() for name, tensor in head.items()}, folder / "head.safetensors")
    _dump(folder / "classes.json", {"classes": list(classes)})
    (folder / "README.md").write_text(_HEAD_README.format(snippet=head_snippet(classes)))


def _linear(clip: nn.Module, name: str) -> nn.Linear:
    """Find a layer of the classifier in a plain CLIP, which may keep its text tower at its top."""
    linear = clip.get_submodule(name if hasattr(clip, "text") else name.removeprefix("text."))
    assert isinstance(linear, nn.Linear)
    return linear


def _adapter_config(params: Any, adapter: dict[str, Tensor]) -> dict[str, Any]:
    layers = {n.removeprefix("base_model.model.").rpartition(".lora_")[0] for n in adapter}
    return {
        "peft_type": "LORA",
        "r": params.lora_rank,
        "lora_alpha": params.lora_alpha,
        "lora_dropout": params.lora_dropout,
        "bias": "none",
        "target_modules": sorted(layers),
    }


def _dump(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
