"""A leaderboard (:func:`lungtune.stats.leaderboard.board`) as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lungtune.report.formatting import cell
from lungtune.stats.bootstrap import interval_text


def text(board: Mapping[str, Any]) -> str:
    """Return a board as plain text: a line per contender, then its conclusions."""
    width = max(len(row["name"]) for row in board["rows"])
    lines = [f"{row['rank']:>2}  {row['name']:<{width}}  {'  '.join(_cells(row))}" for row in board["rows"]]
    return "\n".join([*lines, board["sentence"], board["claims"]])


def markdown(board: Mapping[str, Any]) -> str:
    """Return a board as a Markdown table, then its conclusions."""
    lines = [f"| | model | {board['metric']} | corrected for the choice | behind the winner | beyond chance |"]
    lines.append("|---|---|---|---|---|---|")
    for row in board["rows"]:
        lines.append(f"| {row['rank']} | {cell(row['name'])} | " + " | ".join(_cells(row)) + " |")
    return "\n".join([*lines, "", cell(board["sentence"]), "", board["claims"], ""])


def _cells(row: Mapping[str, Any]) -> list[str]:
    known = row["beyond_chance"] is not None
    return [
        interval_text({**row["interval"], "value": row["value"]}),
        f"{row['corrected']['value']:.3f}" if row["corrected"] else "-",
        interval_text(row["lead"]) if known else "-",
        ("yes" if row["beyond_chance"] else "no") if known else "-",
    ]
