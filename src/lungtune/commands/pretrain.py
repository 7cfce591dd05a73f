"""``lungtune pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lungtune import cli
from lungtune.core.text import say
from lungtune.errors import SpaceError


def pretrain(
    base: Annotated[
        str,
        cli.argument(
            "BASE",
            "tiny_clip, tiny_resnet, tiny_vit, tiny_convnext, tiny_conformer, tiny_diffusion or demo_generator",
        ),
    ],
    out: Annotated[
        Path | None, cli.option("--out", "DIR", "folder to write (default: the shipped one)", parser=cli.path)
    ] = None,
    seed: Annotated[int, cli.option("--seed", "N", "of weights, order and phantoms (default 0)", parser=cli.whole)] = 0,
    patients: Annotated[
        int | None, cli.option("--patients", "N", "fewer or more patients than the recipe's", parser=cli.positive)
    ] = None,
    passes: Annotated[
        int | None, cli.option("--passes", "N", "fewer or more passes than the recipe's", parser=cli.positive)
    ] = None,
    threads: Annotated[
        int,
        cli.option("--threads", "N", "CPU threads; another number rounds differently (default 1)", parser=cli.positive),
    ] = 1,
) -> None:
    """Pretrain a shipped base on phantoms of domain A, or train the shipped generator on those of domain B.

    lungtune pretrain tiny_vit --out /tmp/tiny_vit
    lungtune pretrain demo_generator

    Bases: tiny_clip (learns from captions), tiny_resnet, tiny_vit, tiny_convnext and tiny_conformer (learn which
    findings are where), tiny_diffusion (learns to draw what captions say). The default writes into the package, over
    the shipped base. demo_generator is tiny_diffusion as adapted by sd_lora's demo profile to the default phantoms: a
    search draws with it instead of training it first.

    Raises:
        SpaceError: an option that demo_generator does not take.
    """
    if base == "demo_generator":
        if (seed, patients, passes, threads) != (0, None, None, 1):
            raise SpaceError("demo_generator is trained in one way: it takes --out only.")
        from lungtune.synthesize import ship

        say(f"Wrote {ship(out)}.")
        return
    import torch

    from lungtune.pretrain import pretrain

    torch.set_num_threads(threads)
    folder = pretrain(base, out, seed=seed, patients=patients, passes=passes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"Wrote {folder} ({size / 1e6:.2f} MB).")
