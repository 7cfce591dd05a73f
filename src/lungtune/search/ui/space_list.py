"""``--list``: what can be searched. Imports next to nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lungtune.core import space_index


def show() -> int:
    """Print the spaces, shipped and own, one line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, path in space_index.files().items():
        table.add_row(f"[bold]{name}[/bold]", space_index.summary(path))
    Console().print(table)
    return 0
