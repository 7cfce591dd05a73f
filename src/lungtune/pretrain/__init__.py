"""Pretrains the shipped tiny bases on phantoms, without disease labels.

Adapters on random weights learn nothing, so the demo profiles need bases pretrained on chest X-rays. They are trained
on the findings and their places in domain A: a CLIP from captions, the others from lists; a latent diffusion model is
trained to draw images from captions. A search then adapts them to the diseases of domain B.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch

from lungtune.core.io import progress
from lungtune.errors import UserError, did_you_mean
from lungtune.pretrain.contrastive import contrastive_loss
from lungtune.pretrain.corpus import Corpus, corpus
from lungtune.pretrain.recipe import Recipe
from lungtune.pretrain.recipes import RECIPES

__all__ = ["RECIPES", "SHIPPED", "Corpus", "Recipe", "contrastive_loss", "corpus", "pretrain", "save"]

SHIPPED = Path(__file__).parents[1] / "models" / "bases"
"""Folder of the shipped bases, one subfolder each."""


def save(model: torch.nn.Module, recipe: Recipe, folder: Path) -> None:
    """Write a base; the folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        recipe.write(model, part)
        for file in (part, *part.rglob("*")):
            file.chmod(0o755 if file.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def pretrain(
    name: str, out: Path | None = None, *, seed: int = 0, patients: int | None = None, passes: int | None = None
) -> Path:
    """Pretrain the base ``name`` from random weights, with a progress bar, and return its folder.

    Args:
        name: a key of ``RECIPES``.
        out: folder to write; default the shipped one.
        seed: of weights, order and augmentation, and of the phantoms.
        patients, passes: override the recipe, for a quick try.

    Raises:
        UserError: there is no such base.
    """
    if name not in RECIPES:
        raise UserError(f"'{name}' is not a base.{did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]
    recipe = replace(recipe, patients=patients or recipe.patients, passes=passes or recipe.passes)
    rendered, steps = count(1), count(1)
    with progress("Rendering phantoms", None) as update:
        data = recipe.corpus(seed, lambda: update(next(rendered)))
    with progress("Pretraining", recipe.steps(len(data.images)), lines=20) as update:
        model = recipe.train(data, seed, lambda loss: update(next(steps), f"loss {loss:.3f}"))
    folder = out or SHIPPED / name
    save(model, recipe, folder)
    return folder
