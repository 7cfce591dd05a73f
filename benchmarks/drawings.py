"""Drawings of the shipped diffusion base, scored in the embedding of `tiny_clip`.

    python benchmarks/drawings.py [FOLDER] [--sheet sheet.png]

1. Copies by the autoencoder: linear probe on the diseases of domain B, originals and copies (as in `bases.py`).
2. Drawings of captions of domain A's, guidance 3, 20 steps of DPM-Solver++: distance from other pictures of the same
   findings, and how often the nearest of ten texts is of the finding that was asked for. Beside them the pictures
   themselves and their copies: no drawing can be expected to be nearer than these.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn import functional

from bases import PICTURES, clip_features, pictures, probe
from lungtune import pretrain
from lungtune.data.phantom.captions import FINDINGS
from lungtune.pretrain.corpus import MEAN, STD, Corpus, corpus

KIND, STEPS, GUIDANCE = 27, 20, 3.0  # pictures of each finding, and of clear lungs
CORPUS = 1200


def chosen(data: Corpus, kind: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows ``(10 * kind)`` of pictures, finding by finding and clear lungs last, twice, no row in both.

    They are the pictures of a finding that show the fewest others: a cavity comes with an infiltrate.
    """
    shown = torch.cat([data.kinds, 1 - data.kinds.sum(1, keepdim=True).clamp(max=1)], 1)
    fewest = data.kinds.sum(1).argsort(stable=True)
    rows = torch.stack([fewest[shown[fewest, finding] > 0][: 2 * kind] for finding in range(shown.shape[1])])
    return rows[:, :kind].flatten(), rows[:, kind:].flatten()


def copies(pipe: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the autoencoder's reconstructions of images ``(N, 1, S, S)`` in [0, 1]."""
    seen = (2 * images - 1).expand(-1, 3, -1, -1).split(64)
    back = torch.cat([pipe.vae.decode(pipe.vae.encode(part).latent_dist.mode()).sample for part in seen])
    return ((back.mean(1, keepdim=True) + 1) / 2).clamp(0, 1)


def drawings(pipe: Any, captions: list[str], steps: int) -> torch.Tensor:
    """Return a drawing of each caption, ``(N, 1, S, S)`` in [0, 1]."""
    torch.manual_seed(0)
    ask = partial(pipe, num_inference_steps=steps, guidance_scale=GUIDANCE, output_type="pt")
    parts = (captions[i : i + 30] for i in range(0, len(captions), 30))
    return torch.cat([ask(part).images for part in parts]).mean(1, keepdim=True)


def discrepancy(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the squared maximum mean discrepancy of unit vectors ``(N, D)``, unbiased, times 1000.

    In the manner of CMMD (Jayasumana et al. 2024), with a Gaussian kernel as wide as the right side's median distance.
    """
    width = torch.pdist(right).median()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-((torch.cdist(a, b) / width) ** 2) / 2)

    within = sum((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel(left, left), kernel(right, right)))
    return 1000 * float(within - 2 * kernel(left, right).mean())


def sheet(rows: list[torch.Tensor], file: Path) -> None:
    """Write pictures ``(N, 1, S, S)`` in [0, 1], one row each, enlarged twice."""
    grey = np.concatenate([np.concatenate(list(row[:, 0].clamp(0, 1).numpy()), 1) for row in rows])
    image = Image.fromarray((grey * 255).round().astype(np.uint8))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(file)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=pretrain.SHIPPED / "tiny_diffusion")
    parser.add_argument("--sheet", type=Path, help="write pictures, copies and drawings, three rows for each finding")
    parser.add_argument("--kind", type=int, default=KIND, help=f"pictures of each finding (default {KIND})")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of the sampler (default {STEPS})")
    parser.add_argument("--corpus", type=int, default=CORPUS, help=f"pictures to choose from (default {CORPUS})")
    parser.add_argument("--pictures", type=int, default=PICTURES, help=f"of the probe (default {PICTURES})")
    args = parser.parse_args()
    kind = args.kind
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    torch.set_num_threads(1)
    pipe = StableDiffusionPipeline.from_pretrained(args.folder, dtype=torch.float32)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    clip = open_clip.create_model_from_pretrained(f"local-dir:{pretrain.SHIPPED / 'tiny_clip'}")[0].eval()

    def seen(images: torch.Tensor) -> torch.Tensor:
        return clip.encode_image(((images - MEAN) / STD).expand(-1, 3, -1, -1), normalize=True)

    data = corpus(args.corpus, render_size=96, size=64, seed=1)
    these, others = chosen(data, kind)
    captions = [data.captions[row] for row in these]
    texts = clip.encode_text(open_clip.SimpleTokenizer(context_length=32)(data.captions), normalize=True)
    centres = functional.normalize(texts[others].unflatten(0, (-1, kind)).mean(1), dim=-1)
    images = data.images[:, None].float() / 255
    start = time.perf_counter()
    drawn = drawings(pipe, captions, args.steps)
    seconds = time.perf_counter() - start
    real = images[these]
    shown = {"pictures": real, "copies": copies(pipe, real), "drawings": drawn}
    print(f"{len(captions)} drawings: {seconds:.0f} s\n\n| | distance | finding right |\n|---|---|---|")
    for name, these_images in shown.items():
        vectors = seen(these_images)
        right = ((vectors @ centres.T).argmax(1) == torch.arange(1 + len(FINDINGS)).repeat_interleave(kind)).float()
        print(f"| {name} | {discrepancy(vectors, seen(images[others])):.1f} | {right.mean():.2f} |", flush=True)
        by_finding = zip((*FINDINGS, "clear"), right.unflatten(0, (-1, kind)).mean(1).tolist())
        print("  ", ", ".join(f"{finding} {share:.2f}" for finding, share in by_finding))
    if args.sheet:
        kinds = [rows.unflatten(0, (-1, kind))[:, :8] for rows in shown.values()]
        sheet([rows[k] for k in range(1 + len(FINDINGS)) for rows in kinds], args.sheet)
    images, labels, patients = pictures(args.pictures)
    recipe = pretrain.RECIPES["tiny_clip"]
    for name, these_images in {"originals": images, "copies": copies(pipe, images)}.items():
        score = probe(clip_features(these_images, recipe, None).numpy(), labels, patients)
        print(f"linear probe on domain B, {name}: {score:.3f}", flush=True)


if __name__ == "__main__":
    main()
