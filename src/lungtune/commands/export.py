"""``lungtune export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lungtune import cli
from lungtune.errors import StudyError


def export(
    study: Annotated[str, cli.option("--study", "NAME", "the study")],
    top: Annotated[
        int | None, cli.option("--top", "K", "write the K best trials (default 1)", parser=cli.positive)
    ] = None,
    out: Annotated[
        Path | None, cli.option("--out", "DIR", "folder of the recipes (default: recipes/)", parser=cli.path)
    ] = None,
    optuna: Annotated[
        Path | None,
        cli.option(
            "--optuna",
            "FILE",
            "write all trials for Optuna instead: x.db (SQLite), x.log or x.journal",
            parser=cli.path,
        ),
    ] = None,
) -> None:
    """Write a study's best trials as recipes: YAML files to read, retrain or hand on.

    lungtune export --study NAME [--top K]
    lungtune export --study NAME --optuna FILE    all trials, for optuna.load_study and optuna-dashboard

    A recipe is a search space whose every parameter is one value, with a block that records its origin.
    """
    if optuna is not None:
        if top is not None or out is not None:
            raise StudyError("--optuna writes all trials to one file; leave --top and --out out.")
        _for_optuna(study, optuna)
        return
    from lungtune.core.text import say
    from lungtune.export import export, following

    top = top or 1
    written = export(study, top, out)
    say("\n".join(map(str, written)))
    if len(written) < top:
        say(f"{len(written)} written: no more trials of the study have a score.")
    say("next: " + "\n      ".join(following(study, written[0])))


def _for_optuna(study: str, path: Path) -> None:
    from lungtune import optuna_export
    from lungtune.core.text import say

    count = optuna_export.export(study, path)
    say(f"{path}: the study '{study}', {count} trials")
    say(f"next: optuna-dashboard {optuna_export.url(path)}")
