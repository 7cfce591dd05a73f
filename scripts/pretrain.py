"""Pretrain a shipped base on phantoms of domain A.

    python scripts/pretrain.py tiny_vit --out /tmp/tiny_vit

Bases: tiny_clip (learns from captions), tiny_resnet, tiny_vit, tiny_convnext and tiny_conformer (learn which findings
are where), tiny_diffusion (learns to draw what captions say). The default writes into the package, over the shipped
base.
"""

from __future__ import annotations

from pathlib import Path

from lungtune.cli import Parser, run


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument(
        "base", help="tiny_clip, tiny_resnet, tiny_vit, tiny_convnext, tiny_conformer or tiny_diffusion"
    )
    parser.add_argument("--out", type=Path, help="folder to write (default: the shipped one)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and phantoms (default 0)")
    parser.add_argument("--patients", type=int, help="fewer or more patients than the recipe's")
    parser.add_argument("--passes", type=int, help="fewer or more passes than the recipe's")
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; another number rounds differently (default 1)"
    )
    args = parser.parse_args()

    import torch

    from lungtune.pretrain import pretrain

    torch.set_num_threads(args.threads)
    folder = pretrain(args.base, args.out, seed=args.seed, patients=args.patients, passes=args.passes)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"Wrote {folder} ({size / 1e6:.2f} MB).")


if __name__ == "__main__":
    run(main)
