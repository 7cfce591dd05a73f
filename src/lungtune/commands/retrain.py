"""``lungtune retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lungtune import cli
from lungtune.core import devices


def retrain(
    recipe: Annotated[Path, cli.argument("RECIPE.yaml", "what lungtune export wrote", parser=cli.path)],
    seeds: Annotated[
        int, cli.option("--seeds", "N", "train N seeds; report mean and deviation", parser=cli.positive)
    ] = 1,
    test: Annotated[bool, cli.option("--test", None, "open the locked test set: once per study, recorded")] = False,
    no_blackout: Annotated[
        bool, cli.option("--no-blackout", None, "with --test: don't train again with black lungs, as a baseline")
    ] = False,
    compare: Annotated[
        str | None, cli.option("--compare", "NAME=A,B,...", "does this parameter help, and at which value?")
    ] = None,
    data: Annotated[str | None, cli.option("--data", "SOURCE[:PATH]", "the same data, lying elsewhere")] = None,
    bank: Annotated[
        Path | None, cli.option("--bank", "DIR", "the same synthetic images, lying elsewhere", parser=cli.path)
    ] = None,
    out: Annotated[
        Path | None, cli.option("--out", "DIR", "folder of weights and report (default: models/)", parser=cli.path)
    ] = None,
    gpus: Annotated[
        str | None, cli.option("--gpus", "N", "train on this GPU, by nvidia-smi's number", parser=cli.one_gpu)
    ] = None,
) -> None:
    """Train a recipe again: weights that load without lungtune, and a report with intervals over patients
    (over images where patients are unknown).

    lungtune retrain RECIPE.yaml [--seeds N] [--test [--no-blackout]] [--compare NAME=A,B,...]

    The recipe's own seed gives the searched validation score again. --test opens the locked test set, once per study,
    and records that in the study's ledger; with lung masks it also trains the recipe on images with black lungs,
    as a baseline: an equal score means that the model does not need the lungs.
    --compare lambda2=0,0.01,0.1,1 trains the recipe with each of these values too and reports whether the parameter
    helps, and at which value: intervals over patients, the same seeds on both sides (take --seeds 3: the searched one
    is left out).
    """
    devices.choose_gpus(gpus)
    from lungtune.core.text import say
    from lungtune.retrain import retrain

    done = retrain(recipe, seeds, test, out, blackout=not no_blackout, data=data, compare=compare, bank=bank)
    say(done.text)
    say(f"report:  {done.folder / 'report.md'}\nweights: {done.weights}")
