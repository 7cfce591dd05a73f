"""``lungtune export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from lungtune import cli


def export(
    study: Annotated[str, cli.option("--study", "NAME", "the study")],
    top: Annotated[int, cli.option("--top", "K", "write the K best trials (default 1)", parser=cli.positive)] = 1,
    out: Annotated[Path | None, cli.option("--out", "DIR", "folder of the recipes (default: recipes/)")] = None,
) -> None:
    """Write a study's best trials as recipes: YAML files to read, retrain or hand on.

    lungtune export --study NAME [--top K]

    A recipe is a search space whose every parameter is one value, with a block that records its origin.
    """
    from lungtune.export import export, following

    written = export(study, top, out)
    print(*written, sep="\n")
    if len(written) < top:
        print(f"{len(written)} written: no more trials of the study have a score.")
    print("next:", "\n      ".join(following(study, written[0])))
