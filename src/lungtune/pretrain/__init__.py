"""Pretrains the shipped tiny base: a CLIP that has read reports of phantoms but never heard of a disease.

LoRA over random weights learns nothing, so the demo profile needs a base that knows what a chest X-ray looks like.
It is trained contrastively on domain A, whose captions name findings and places; a search then adapts it to the
diseases of domain B.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from lungtune.errors import UserError, did_you_mean
from lungtune.pretrain.corpus import MEAN, RECIPES, STD, Corpus, Recipe, corpus
from lungtune.pretrain.learn import contrastive_loss, steps_of, train

__all__ = [
    "RECIPES",
    "SHIPPED",
    "Corpus",
    "Recipe",
    "contrastive_loss",
    "corpus",
    "pretrain",
    "save",
    "steps_of",
    "train",
]

SHIPPED = Path(__file__).parents[1] / "nn" / "bases"
"""Where bases are shipped, one folder each."""


def save(model: torch.nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write open_clip's local-dir format, half precision; the folder appears complete or not at all."""
    from safetensors.torch import save_file

    config = {
        "model_cfg": recipe.model,
        "preprocess_cfg": {
            "size": [recipe.model["vision_cfg"]["image_size"]] * 2,
            "mode": "RGB",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
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
