"""``lungtune data``."""

from __future__ import annotations

from typing import Annotated

import typer

from lungtune import cli
from lungtune.errors import did_you_mean

_ACTIONS = ("check", "sources")


def _action(text: str) -> str:
    if text not in _ACTIONS:
        remedy = cli.written(text, ["--data"]).replace(" Write ", " Write lungtune data check ")
        raise typer.BadParameter(f"must be one of these, but got '{text}'.{remedy or did_you_mean(text, _ACTIONS)}")
    return text


def data(
    action: Annotated[str, cli.argument("check|sources", "what to do", parser=_action)],
    source: Annotated[str, cli.option("--data", "SOURCE[:PATH]", "the data source (default: phantom)")] = "phantom",
    seed: Annotated[int, cli.option("--seed", "N", "seed of the validation draw (default 0)", parser=cli.whole)] = 0,
    folds: Annotated[int, cli.option("--folds", "N", "validation is 1/N (default 5)", parser=cli.positive)] = 5,
    rescan: Annotated[bool, cli.option("--rescan", None, "read every file again, whatever is cached")] = False,
    as_json: Annotated[bool, cli.option("--json", None, "print JSON")] = False,
) -> int:
    """Check a data source before searching on it.

    lungtune data check --data chest_xray:DIR     classes, parts, duplicates, leaks, shortcuts, inventory
    lungtune data check --data SOURCE --json      the same for machines
    lungtune data check --data SOURCE --rescan    reads every file again; for files changed in place
    lungtune data sources                         the formats that can be read

    Exit code 0: a search may start; 2: it may not.
    """
    from lungtune.data import report
    from lungtune.report.contact_sheet import contact_sheet, pair_sheet

    if action == "sources":
        return report.sources()
    drawing = report.Drawing(contact_sheet, pair_sheet)
    return report.check(source, seed=seed, folds=folds, fresh=rescan, as_json=as_json, drawing=drawing)
