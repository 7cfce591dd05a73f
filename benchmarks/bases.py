"""Linear probes of the shipped bases' features on the diseases of domain B.

    python benchmarks/bases.py [tiny_resnet ...]

803 pictures train, 347 of other patients validate; labels are wrong in 2 % of both. The regularisation of each probe is
chosen on the training patients. Beside each base: the same network with random weights, mean of three.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lungtune import pretrain
from lungtune.data.phantom import generate
from lungtune.pretrain.corpus import MEAN, STD
from lungtune.pretrain.diffusion import Diffusion
from lungtune.pretrain.supervised import Supervised, branches

PICTURES, SEEDS = 1150, 3


def pictures(count: int = PICTURES) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Return images ``(N, 1, 64, 64)`` in [0, 1], their labels and their patients."""
    drawn = [phantom for phantom, _ in zip(generate(count, domain="B"), range(count))]
    small = [np.asarray(Image.fromarray(p.image).resize((64, 64), Image.Resampling.BICUBIC)) for p in drawn]
    patients = np.unique([p.patient_id for p in drawn], return_inverse=True)[1]
    return torch.from_numpy(np.stack(small))[:, None].float() / 255, np.array([p.label for p in drawn]), patients


def clip_features(images: torch.Tensor, recipe: pretrain.Recipe, seed: int | None) -> torch.Tensor:
    """Return the output of CLIP's image tower before its projection; with random weights if there is a seed."""
    from open_clip.model import CLIP

    from lungtune.models import clip_model
    from lungtune.trainables import clip_head

    clip = clip_model.plain_clip(clip_head.ClipHeadBase(weights="tiny_clip", image_size=64))
    if seed is not None:
        torch.manual_seed(seed)
        clip.load_state_dict(CLIP(**recipe.model).state_dict())
    tower = clip_model.ClipImages(clip).eval()
    return torch.cat([tower.upper(tower.lower(part)) for part in images.split(128)])


def features(name: str, images: torch.Tensor, seed: int | None) -> torch.Tensor:
    """Return the pooled features of a base, both branches' if there are two; with random weights if there is a seed."""
    from lungtune.models import timm_models

    recipe = pretrain.RECIPES[name]
    if not isinstance(recipe, Supervised):
        return clip_features(images, recipe, seed)
    if seed is None:
        body = timm_models.build("", name, 64).model
    else:
        torch.manual_seed(seed)
        body = recipe.body().eval()
    parts = [branches(body, (part - MEAN) / STD) for part in images.split(128)]
    return torch.cat([torch.cat([pooled for pooled, _ in part], 1) for part in parts])


def probe(values: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Return the macro-F1 of a linear probe on patients that it was not fitted to."""
    folds = [held for _, held in StratifiedGroupKFold(10, shuffle=True, random_state=0).split(values, labels, patients)]
    held = np.isin(np.arange(len(labels)), np.concatenate(folds[:3]))
    inner = StratifiedGroupKFold(4, shuffle=True, random_state=1)
    models = [make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=300)) for c in (1e-4, 1e-3, 1e-2, 0.1)]
    known = values[~held], labels[~held]
    scores = [cross_val_score(m, *known, groups=patients[~held], cv=inner, scoring="f1_macro").mean() for m in models]
    best = models[int(np.argmax(scores))].fit(*known)
    return float(f1_score(labels[held], best.predict(values[held]), average="macro"))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bases", nargs="*", help="default: all")
    every = [name for name, recipe in pretrain.RECIPES.items() if not isinstance(recipe, Diffusion)]
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"default {PICTURES}; fewer for a quick try")
    parser.add_argument("--random", type=int, default=SEEDS, help=f"networks with random weights (default {SEEDS})")
    args = parser.parse_args()
    names = args.bases or every
    torch.set_num_threads(1)
    images, labels, patients = pictures(args.pictures)
    print("| base | linear probe | random weights |\n|---|---|---|")
    for name in names:
        pretrained, *random = (
            probe(features(name, images, seed).numpy(), labels, patients) for seed in (None, *range(args.random))
        )
        print(f"| `{name}` | {pretrained:.3f} | {np.mean(random):.3f} |", flush=True)


if __name__ == "__main__":
    main()
