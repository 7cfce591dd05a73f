"""Pretrains the shipped tiny base: a CLIP that has read reports of phantoms but never heard of a disease.

LoRA over random weights learns nothing, so the demo profile needs a base that knows what a chest X-ray looks like.
It is trained contrastively on domain A, whose captions name findings and places; a search then adapts it to the
diseases of domain B.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from lungtune.data.phantom import Phantom, generate
from lungtune.data.phantom.captions import FINDINGS
from lungtune.errors import UserError

SHIPPED = Path(__file__).parent / "nn" / "bases"
"""Where bases are shipped, one folder each."""

_TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VISION = {
    "image_size": 64,
    "layers": 4,
    "width": 128,
    "head_width": 32,
    "patch_size": 8,
    "mlp_ratio": 4.0,
    "pool_type": "avg",  # small lesions count from the first step; a class token first has to learn to look
}
_MEAN, _STD = 0.5, 0.25  # about those of domain A's pixels
_DENSE = (1.0, *(3.0 for _ in FINDINGS))  # weights of lung map and findings' maps in the auxiliary loss


@dataclass(frozen=True)
class Recipe:
    """How a base is pretrained.

    Attributes:
        model: open_clip's model configuration.
        patients: patients of phantom domain A; about 1.85 images each.
        render_size: width of the rendered pictures before they shrink to the model's, px.
        text_steps: steps in which the text tower alone learns that paraphrases mean the same.
        passes: passes over the images, in which the image tower learns to meet the captions.
        batch: images a step (captions: twice as many).
        text_lr, lr: peak learning rates of AdamW, after 10 % warm-up, falling along a cosine to zero.
        weight_decay: on the image tower's matrices.
        temperature: fixed softmax temperature of the contrastive loss.
        dense: weight of the auxiliary loss: every patch tells how much of it is lung, and how much of each finding.
    """

    model: dict[str, Any]
    patients: int
    render_size: int
    text_steps: int
    passes: int
    batch: int
    text_lr: float
    lr: float
    weight_decay: float
    temperature: float
    dense: float


RECIPES = {
    "tiny_clip": Recipe(
        model={"embed_dim": 128, "vision_cfg": _VISION, "text_cfg": _TEXT},
        patients=3000,
        render_size=96,
        text_steps=120,
        passes=7,
        batch=64,
        text_lr=3.0e-3,
        lr=2.0e-3,
        weight_decay=0.05,
        temperature=0.07,
        dense=2.0,
    ),
}
"""Name of a base -> how to make it."""


@dataclass(frozen=True)
class Corpus:
    """Images and captions to learn from.

    Attributes:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, lung and lesion masks, 0 or 255.
        kinds: float ``(N, F)``, 1 for each of ``FINDINGS`` that the picture shows.
        captions: one a picture.
        meaning: int64 ``(N,)``; equal for pictures whose findings and places are the same.
    """

    images: Tensor
    maps: Tensor
    kinds: Tensor
    captions: list[str]
    meaning: Tensor


def corpus(recipe: Recipe, seed: int, tick: Callable[[], None] = lambda: None) -> Corpus:
    """Render domain A and shrink it to the model's size; ``tick`` is called for every picture."""
    size = int(recipe.model["vision_cfg"]["image_size"])
    images, maps, kinds, captions, keys = [], [], [], [], []
    for phantom in generate(recipe.patients, seed=seed, domain="A", size=recipe.render_size):
        images.append(_shrink(phantom.image, size, Image.Resampling.BICUBIC))
        both = (phantom.lung_mask, phantom.lesion_mask)
        maps.append(np.stack([_shrink(m.astype(np.uint8) * 255, size, Image.Resampling.BOX) for m in both]))
        shown = {f["finding"] for f in phantom.latent["findings"]}
        kinds.append([float(name in shown) for name in FINDINGS])
        captions.append(phantom.caption)
        keys.append(_meaning(phantom))
        tick()
    known = {key: i for i, key in enumerate(sorted(set(keys)))}
    meaning = torch.tensor([known[key] for key in keys])
    pixels, masks = torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(maps))
    return Corpus(pixels, masks, torch.tensor(kinds), captions, meaning)


def _shrink(pixels: NDArray[np.uint8], size: int, how: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((size, size), how))


def _meaning(phantom: Phantom) -> str:
    return "; ".join(sorted(f"{f['finding']} {f['side']} {f['zone']}" for f in phantom.latent["findings"]))


def augment(images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shift, turn, scale and re-expose a batch.

    Args:
        images: uint8 ``(N, S, S)``.
        maps: uint8 ``(N, 2, S, S)``, moved along with the images.
        generator: the only source of randomness.

    Returns:
        Images, float ``(N, 3, S, S)``, normalised for the model; maps, float ``(N, 2, S, S)`` in [0, 1].
    """
    n = len(images)
    stack = torch.cat([images[:, None], maps], 1).float() / 255
    shape = (torch.rand(n, 4, generator=generator) - 0.5) * torch.tensor([0.16, 0.16, 0.20, 0.16])
    scale, turn = 1 + shape[:, 2], shape[:, 3]
    theta = torch.stack(
        [
            torch.stack([scale * turn.cos(), -scale * turn.sin(), shape[:, 0]], 1),
            torch.stack([scale * turn.sin(), scale * turn.cos(), shape[:, 1]], 1),
        ],
        1,
    )
    where = functional.affine_grid(theta, list(stack.shape), align_corners=False)
    stack = functional.grid_sample(stack, where, padding_mode="border", align_corners=False)
    light = torch.rand(n, 3, 1, 1, 1, generator=generator) - 0.5
    grey = stack[:, :1].clamp(1e-3, 1) ** torch.exp(0.8 * light[:, 0])
    grey = ((grey - 0.5) * (1 + 0.4 * light[:, 1]) + 0.5 + 0.2 * light[:, 2]).clamp(0, 1)
    return ((grey - _MEAN) / _STD).expand(-1, 3, -1, -1), stack[:, 1:]


def contrastive_loss(left: Tensor, right: Tensor, meaning: Tensor, temperature: float) -> Tensor:
    """CLIP's symmetric loss where every pair of equal meaning counts as a match.

    Many healthy pictures share one sentence: with CLIP's own one-to-one targets they would be pushed apart
    (unified contrastive learning, Yang et al. 2022).

    Args:
        left, right: unit vectors ``(N, D)``.
        meaning: ``(N,)``.
        temperature: > 0.
    """
    logits = left @ right.T / temperature
    target = (meaning[:, None] == meaning[None, :]).float()
    target = target / target.sum(1, keepdim=True)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def whiten(visual: torch.nn.Module, images: Tensor) -> None:
    """Start the patch embedding as a whitening of the data's patches, the positions as sines and cosines.

    Neighbouring pixels are nearly equal, so a random embedding sees little but a patch's mean grey. Whitened, faint
    textures weigh as much from the first step: the contrastive loss after 160 steps is 2.8 instead of 4.1.

    Args:
        visual: open_clip's VisionTransformer with square patches.
        images: uint8 ``(N, S, S)``, N x patches well above the pixels of a patch.
    """
    width, _, side, _ = visual.conv1.weight.shape
    pixels = (images[:, None].float() / 255 - _MEAN) / _STD
    patches = functional.unfold(pixels, side, stride=side).transpose(1, 2).reshape(-1, side * side)
    variance, basis = torch.linalg.eigh(torch.cov(patches.T))
    variance, basis = variance.flip(0), basis.flip(1)
    damping = torch.linspace(1, 0.4, side * side)  # the last components are mostly noise
    whitening = basis.T * (damping / variance.clamp_min(variance[0] * 1e-4).sqrt())[:, None]
    mix = torch.linalg.qr(torch.randn(width, side * side))[0] * math.sqrt(width / (side * side))
    cells = images.shape[-1] // side
    row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    rates = 20.0 ** -(torch.arange(width // 4) / (width // 4))
    waves = [wave(place.flatten()[:, None] * rates) for place in (row, column) for wave in (torch.sin, torch.cos)]
    with torch.no_grad():
        visual.conv1.weight.copy_((mix @ whitening).reshape(width, 1, side, side).expand(-1, 3, -1, -1) / 3)
        visual.positional_embedding[1:].copy_(0.5 * torch.cat(waves, 1))


def _read(
    model: torch.nn.Module, tokens: Tensor, recipe: Recipe, data: Corpus, generator: torch.Generator
) -> Iterator[float]:
    """Teach the text tower which captions mean the same; yield the loss of every step."""
    kin = {int(m): torch.nonzero(data.meaning == m).flatten() for m in data.meaning.unique()}
    weights = [p for name, p in model.named_parameters() if not name.startswith(("visual.", "logit_"))]
    optimiser = torch.optim.AdamW(weights, lr=recipe.text_lr, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(recipe.text_steps):
        _set_lr(optimiser, recipe.text_lr, step, recipe.text_steps)
        rows = torch.randperm(len(tokens), generator=generator)[: 2 * recipe.batch]
        groups = [kin[int(m)] for m in data.meaning[rows]]
        twins = torch.stack([g[torch.randint(len(g), (1,), generator=generator)[0]] for g in groups])
        left, right = (model.encode_text(tokens[at], normalize=True) for at in (rows, twins))
        loss = contrastive_loss(left, right, data.meaning[rows], recipe.temperature)
        _descend(loss, optimiser, weights)
        yield float(loss.detach())


def _see(
    model: torch.nn.Module, texts: Tensor, recipe: Recipe, data: Corpus, generator: torch.Generator
) -> Iterator[float]:
    """Teach the image tower to meet the captions; yield the contrastive loss of every step."""
    visual, side = model.visual, recipe.model["vision_cfg"]["patch_size"]
    head = torch.nn.Linear(recipe.model["vision_cfg"]["width"], 1 + len(FINDINGS))
    weights = [*visual.parameters(), *head.parameters()]
    groups = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    steps = steps_of(recipe, len(data.images))
    visual.output_tokens = True
    for step, rows in enumerate(_batches(len(data.images), recipe, generator)):
        _set_lr(optimiser, recipe.lr, step, steps)
        images, maps = augment(data.images[rows], data.maps[rows], generator)
        image, patches = visual(images)
        loss = contrastive_loss(
            functional.normalize(image, dim=-1), texts[rows], data.meaning[rows], recipe.temperature
        )
        logits, share = head(patches), functional.avg_pool2d(maps, side).flatten(2).transpose(1, 2)
        share = torch.cat([share[..., :1], share[..., 1:] * data.kinds[rows][:, None]], -1)
        dense = functional.binary_cross_entropy_with_logits(logits, share, reduction="none").mean((0, 1))
        _descend(loss + recipe.dense * (dense * torch.tensor(_DENSE)).sum(), optimiser, weights)
        yield float(loss.detach())
    visual.output_tokens = False


def _set_lr(optimiser: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = peak * min((step + 1) / (0.1 * steps), 0.5 * (1 + math.cos(math.pi * step / steps)))


def _descend(loss: Tensor, optimiser: torch.optim.Optimizer, weights: list[Tensor]) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()


def train(
    recipe: Recipe, data: Corpus, seed: int, tick: Callable[[float], None] = lambda loss: None
) -> torch.nn.Module:
    """Return an open_clip CLIP trained on ``data``; ``tick`` hears every step's loss."""
    import open_clip
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = CLIP(**recipe.model)
    # Words that no caption holds, such as the names of diseases, stay as they are drawn: wide enough to differ.
    torch.nn.init.normal_(model.token_embedding.weight, std=0.3)
    whiten(model.visual, data.images[:600])
    tokens = open_clip.SimpleTokenizer(context_length=recipe.model["text_cfg"]["context_length"])(data.captions)
    for loss in _read(model, tokens, recipe, data, generator):
        tick(loss)
    with torch.no_grad():
        texts = torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(256)])
        model.logit_scale.fill_(math.log(1 / recipe.temperature))
    for loss in _see(model, texts, recipe, data, generator):
        tick(loss)
    return model.eval()


def steps_of(recipe: Recipe, images: int) -> int:
    """Return how many steps the image tower takes over ``images`` pictures."""
    return recipe.passes * (images // recipe.batch)


def _batches(images: int, recipe: Recipe, generator: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(recipe.passes):
        order = torch.randperm(images, generator=generator)
        for i in range(images // recipe.batch):
            yield order[i * recipe.batch : (i + 1) * recipe.batch]


def save(model: torch.nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write open_clip's local-dir format, half precision; the folder appears complete or not at all."""
    from safetensors.torch import save_file

    config = {
        "model_cfg": recipe.model,
        "preprocess_cfg": {
            "size": [recipe.model["vision_cfg"]["image_size"]] * 2,
            "mode": "RGB",
            "mean": [_MEAN] * 3,
            "std": [_STD] * 3,
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        weights = {name: value.to(torch.float16).contiguous() for name, value in model.state_dict().items()}
        save_file(weights, part / "open_clip_model.safetensors")
        (part / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for file in (part, *part.iterdir()):
            file.chmod(0o755 if file.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def pretrain(
    name: str, out: Path | None = None, *, seed: int = 0, patients: int | None = None, passes: int | None = None
) -> Path:
    """Make the base ``name`` from nothing, with a progress bar, and return its folder.

    Args:
        name: a key of ``RECIPES``.
        out: folder to write; default the shipped one.
        seed: of weights, order and augmentation, and of the phantoms.
        patients, passes: override the recipe, for a quick try.

    Raises:
        UserError: there is no such base.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lungtune.errors import did_you_mean

    if name not in RECIPES:
        raise UserError(f"'{name}' is not a base.{did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]
    recipe = replace(recipe, patients=patients or recipe.patients, passes=passes or recipe.passes)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    lively = console.is_terminal
    with Progress(*columns, console=console, disable=not lively) as bar:
        job = bar.add_task("Rendering phantoms", total=None)
        data = corpus(recipe, seed, lambda: bar.advance(job))
        steps = recipe.text_steps + steps_of(recipe, len(data.images))
        bar.update(job, total=len(data.images))
        job = bar.add_task("Pretraining", total=steps)

        def tick(loss: float) -> None:
            bar.update(job, advance=1, description=f"Pretraining, loss {loss:.3f}")
            done = round(bar.tasks[job].completed)
            if not lively and done % max(1, steps // 20) == 0:
                console.print(f"step {done} of {steps}: loss {loss:.3f}", highlight=False)

        model = train(recipe, data, seed, tick)
    folder = out or SHIPPED / name
    save(model, recipe, folder)
    return folder
