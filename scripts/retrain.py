"""Train a recipe again: weights that load without lungtune, and a report with intervals over patients.

    python scripts/retrain.py RECIPE.yaml [--seeds N] [--test [--no-blackout]] [--compare NAME=A,B,...]

The recipe's own seed gives the searched validation score again. --test opens the locked test set, once per study,
and writes that down in the study's ledger; with lung masks it also trains the recipe on images with black lungs, which
tells whether the model needs to look at them.
--compare lambda2=0,0.01,0.1,1 trains the recipe with each of these values too and says whether the parameter helps, and
at which value: intervals over patients, the same seeds on both sides (take --seeds 3: the searched one is left out).
"""

from pathlib import Path

from lungtune import cli


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="what scripts/export.py wrote")
    parser.add_argument(
        "--seeds", type=cli.positive, default=1, metavar="N", help="train N seeds; report mean and deviation"
    )
    parser.add_argument("--test", action="store_true", help="open the locked test set: once per study, recorded")
    parser.add_argument(
        "--no-blackout", action="store_true", help="with --test: don't train again with black lungs, as a baseline"
    )
    parser.add_argument("--compare", metavar="NAME=A,B,...", help="does this parameter help, and at which value?")
    parser.add_argument("--data", metavar="SOURCE[:PATH]", help="the same data, lying elsewhere")
    parser.add_argument("--bank", type=Path, metavar="DIR", help="the same synthetic images, lying elsewhere")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of weights and report (default: models/)")
    options = parser.parse_args()

    from lungtune.retrain import retrain

    blackout = not options.no_blackout
    named = {"data": options.data, "compare": options.compare, "bank": options.bank}
    done = retrain(options.recipe, options.seeds, options.test, options.out, blackout=blackout, **named)
    print(done.text)
    print(f"report:  {done.folder / 'report.md'}\nweights: {done.weights}")


if __name__ == "__main__":
    cli.run(main)
