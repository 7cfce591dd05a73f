"""Search a model family's hyperparameters.

python scripts/search.py --space clip_lora                          built-in phantoms, tiny base, CPU, offline
python scripts/search.py --space clip_lora --data chest_xray:DIR    your images, the real base
python scripts/search.py --space resnet50_full,vit_lora,clip_lora   one search over several: which model is best?
python scripts/search.py --resume --study NAME [--trials N]         go on, or extend
python scripts/search.py --list                                     spaces, one line each
python scripts/search.py --space NAME --check                       a space's parameters, rungs, planned work
"""

from pathlib import Path

from lungtune import cli


def main() -> int:
    parser = cli.Parser(__doc__)
    parser.add_argument("--space", metavar="NAME|FILE", help="a shipped space or a YAML file; several: a,b,c")
    parser.add_argument(
        "--data", metavar="SOURCE[:PATH]", help="phantom, chest_xray:DIR, folder:DIR, ... (scripts/data.py sources)"
    )
    parser.add_argument("--profile", metavar="NAME", help="demo or full (default: full on real data, else demo)")
    parser.add_argument("--trials", type=cli.positive, metavar="N", help="how many trials (default: the space's)")
    parser.add_argument("--budget", type=cli.duration, metavar="30m", help="wall time of this run: 90s, 30m, 2h, 1d")
    parser.add_argument("--study", metavar="NAME", help="the study's name (default: the space's, numbered)")
    parser.add_argument("--resume", action="store_true", help="go on with --study")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of suggestions, split and training (default 0)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="fix or change one setting")
    parser.add_argument("--bank", type=Path, metavar="DIR", help="synthetic images, where synthetic_ratio is searched")
    parser.add_argument("--check", action="store_true", help="check the space and show its plan; nothing is run")
    parser.add_argument("--list", action="store_true", help="list the shipped spaces")
    args = parser.parse_args()
    if args.list:
        from lungtune.search.ui import catalog_cli

        return catalog_cli.spaces()
    settings = cli.settings(args.set)
    if args.check:
        from lungtune.search.ui import catalog_cli

        return catalog_cli.check(args.space, args.profile, settings, args.trials, args.data)
    from rich.console import Console

    from lungtune.search import driver

    chosen = ("space", "data", "profile", "trials", "budget", "study", "resume", "seed", "bank")
    options = driver.Options(**{name: getattr(args, name) for name in chosen}, settings=settings)
    return driver.run(options, Console())


if __name__ == "__main__":
    cli.run(main)
