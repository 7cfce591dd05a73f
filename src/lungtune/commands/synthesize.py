"""``lungtune synthesize``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from lungtune import cli
from lungtune.core import devices
from lungtune.errors import SpaceError


def synthesize(
    recipe: Annotated[Path | None, cli.argument("RECIPE.yaml", "what lungtune export wrote", parser=cli.path)] = None,
    per_class: Annotated[
        str, cli.option("--per-class", "N", "images of each class, or A=N,B=M,... (default 100)")
    ] = "100",
    classes: Annotated[str | None, cli.option("--classes", "A,B,...", "only these classes")] = None,
    data: Annotated[
        str | None, cli.option("--data", "SOURCE[:PATH]", "the data; of a recipe, only where they lie elsewhere")
    ] = None,
    profile: Annotated[
        str | None,
        cli.option("--profile", "NAME", "without a recipe: demo or full (default: full on real data)"),
    ] = None,
    seed: Annotated[
        int, cli.option("--seed", "N", "without a recipe: seed of the split (default 0)", parser=cli.whole)
    ] = 0,
    set_: Annotated[list[str] | None, cli.option("--set", "KEY=VALUE", "without a recipe: one setting")] = None,
    out: Annotated[
        Path | None, cli.option("--out", "DIR", "folder of the bank (default: one in banks/)", parser=cli.path)
    ] = None,
    gpus: Annotated[
        str | None, cli.option("--gpus", "N", "train on this GPU, by nvidia-smi's number", parser=cli.one_gpu)
    ] = None,
) -> None:
    """Make a bank of synthetic X-rays from a generator's recipe, or continue it.

    lungtune synthesize RECIPE.yaml --per-class 500 [--classes A,B] [--out DIR]

    The generator is trained on the training fold only, and the bank carries that fold's hash: a study of another fold
    refuses it. Without a recipe it uses the best one of a generator for the same split, else the last start point of
    the space sd_lora. After an interruption the same command continues; a larger --per-class adds images. Search with
    the bank:

    lungtune search --space clip_lora --set synthetic_ratio=[0,0.5,1] --bank DIR
    """
    devices.choose_gpus(gpus)
    from lungtune.core.text import say
    from lungtune.synthesize import synthesize

    named = [name.strip() for name in classes.split(",")] if classes else None
    settings = cli.settings(set_)
    say(str(synthesize(recipe, counts(per_class), named, data, profile, seed, out, settings)))


def counts(text: str) -> int | dict[str, int]:
    """Read ``500``, or ``normal=100,viral=400``.

    Raises:
        SpaceError: a number is missing.
    """
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    numbers = {name.strip(): number.strip() for name, _, number in pairs}
    named = all(equals and name.strip() for name, equals, _ in pairs) or (len(pairs) == 1 and not pairs[0][1])
    if not named or len(numbers) < len(pairs) or not all(re.fullmatch("[0-9]{1,7}", each) for each in numbers.values()):
        raise SpaceError(f"--per-class takes a whole number, or CLASS=NUMBER,..., but got '{text}'.")
    counted = {name: int(number) for name, number in numbers.items()}
    return counted.get("", 0) if "" in counted else counted
