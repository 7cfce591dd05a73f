"""Display names of table columns and baselines."""

from __future__ import annotations


def cell(text: str) -> str:
    """Return a name escaped for Markdown tables and HTML tags."""
    return str(text).replace("|", "/").replace("<", "(").replace(">", ")").replace("\n", " ")


def baseline(group: str) -> str:
    """Return the display name of a group of baseline scores in the journal: ``constant class``, ``untrained base``."""
    known = {"constant": "constant class", "untrained": "untrained base", "real": "real images"}
    return known.get(group, group)
