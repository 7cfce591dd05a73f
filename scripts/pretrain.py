"""Pretrain a shipped base on phantoms of domain A, or train the shipped generator on those of domain B.

    python scripts/pretrain.py tiny_vit --out /tmp/tiny_vit
    python scripts/pretrain.py demo_generator

Bases: tiny_clip (learns from captions), tiny_resnet, tiny_vit, tiny_convnext and tiny_conformer (learn which findings
are where), tiny_diffusion (learns to draw what captions say). The default writes into the package, over the shipped
base. demo_generator is tiny_diffusion as adapted by sd_lora's demo profile to the default phantoms: scripts/search.py
draws with it instead of training it first.
"""

from __future__ import annotations

from pathlib import Path

from lungtune.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "base", help="tiny_clip, tiny_resnet, tiny_vit, tiny_convnext, tiny_conformer, tiny_diffusion, demo_generator"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: the shipped one)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and phantoms (default 0)")
    parser.add_argument("--patients", type=int, help="fewer or more patients than the recipe's")
    parser.add_argument("--passes", type=int, help="fewer or more passes than the recipe's")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; another number rounds differently (default 1)"
    )
    args = parser.parse_args()
    if args.base == "demo_generator":
        if (args.seed, args.patients, args.passes, args.threads) != (0, None, None, 1):
            parser.error("demo_generator is trained in one way: it takes --out only")
        from lungtune.synthesize import ship

        print(f"Wrote {ship(args.out)}.")
        return

    import torch

    from lungtune.pretrain import pretrain

    torch.set_num_threads(args.threads)
    folder = pretrain(args.base, args.out, seed=args.seed, patients=args.patients, passes=args.passes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"Wrote {folder} ({size / 1e6:.2f} MB).")


if __name__ == "__main__":
    run(main)
