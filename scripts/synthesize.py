"""Make a bank of synthetic X-rays from a generator's recipe, or go on with it.

    python scripts/synthesize.py RECIPE.yaml --per-class 500 [--classes A,B] [--out DIR]

The generator is trained on the training fold only, and the bank carries that fold's hash: a study of another fold
refuses it. Without a recipe the best one of a generator for the same split is taken, else the last start point of
the space sd_lora. Interrupted, the same command goes on; with a larger --per-class the bank grows. Search with it:

    python scripts/search.py --space clip_lora --set synthetic_ratio=[0,0.5,1] --bank DIR
"""

from pathlib import Path

from lungtune import cli
from lungtune.errors import SpaceError


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE.yaml", help="what scripts/export.py wrote")
    parser.add_argument("--per-class", default="100", metavar="N", help="images of each class, or A=N,B=M,...")
    parser.add_argument("--classes", metavar="A,B,...", help="only these classes")
    parser.add_argument("--data", metavar="SOURCE[:PATH]", help="the data; of a recipe, only where they lie elsewhere")
    parser.add_argument("--profile", metavar="NAME", help="without a recipe: demo or full (default: full on real data)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="without a recipe: seed of the split")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="without a recipe: one setting")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the bank (default: one in banks/)")
    options = parser.parse_args()

    from lungtune.synthesize import synthesize

    classes = [name.strip() for name in options.classes.split(",")] if options.classes else None
    settings = cli.settings(options.set)
    named = (options.data, options.profile, options.seed, options.out, settings)
    print(synthesize(options.recipe, counts(options.per_class), classes, *named))


def counts(text: str) -> int | dict[str, int]:
    """Read ``500``, or ``normal=100,viral=400``."""
    found: dict[str, int] = {}
    for pair in text.split(","):
        name, equals, number = pair.rpartition("=")
        if not number.strip().isdigit() or (not equals and "," in text):
            raise SpaceError(f"--per-class takes a whole number, or CLASS=NUMBER,..., but got '{text}'.")
        found[name.strip()] = int(number)
    return found.get("", 0) if "" in found else found


if __name__ == "__main__":
    cli.run(main)
