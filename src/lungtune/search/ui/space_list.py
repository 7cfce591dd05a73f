"""``--list``: prints the available search spaces. Few imports, for speed."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from lungtune.core import space_index, terminal


def show() -> int:
    """Print name and summary of each space, shipped and own; return exit code 0."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, path in space_index.files().items():
        table.add_row(Text(name, style="bold"), space_index.summary(path))
    terminal.console().print(table)
    return 0
