"""Pretrains the shipped tiny bases: models that know phantoms but never heard of a disease.

What adapts random weights learns nothing, so the demo profiles need bases that know what a chest X-ray looks like. They
learn from domain A which findings a picture shows, and where: a CLIP from captions, the others from lists; a latent
diffusion model learns to draw what captions say. A search then adapts them to the diseases of domain B.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from lungtune.errors import UserError, did_you_mean
from lungtune.pretrain.contrastive import contrastive_loss
from lungtune.pretrain.corpus import Corpus, corpus
from lungtune.pretrain.recipe import Recipe
from lungtune.pretrain.recipes import RECIPES

__all__ = ["RECIPES", "SHIPPED", "Corpus", "Recipe", "contrastive_loss", "corpus", "pretrain", "save"]

SHIPPED = Path(__file__).parents[1] / "models" / "bases"
"""Where bases are shipped, one folder each."""


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
        data = recipe.corpus(seed, lambda: bar.advance(job))
        steps = recipe.steps(len(data.images))
        bar.update(job, total=len(data.images))
        job = bar.add_task("Pretraining", total=steps)

        def tick(loss: float) -> None:
            bar.update(job, advance=1, description=f"Pretraining, loss {loss:.3f}")
            done = round(bar.tasks[job].completed)
            if not lively and done % max(1, steps // 20) == 0:
                console.print(f"step {done} of {steps}: loss {loss:.3f}", highlight=False)

        model = recipe.train(data, seed, tick)
    folder = out or SHIPPED / name
    save(model, recipe, folder)
    return folder
