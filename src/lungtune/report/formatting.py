"""Display names of table columns and baselines."""

from __future__ import annotations


def cell(text: str) -> str:
    """Keep a name from breaking a table or a tag."""
    return str(text).replace("|", "/").replace("<", "(").replace(">", ")").replace("\n", " ")


def baseline(group: str) -> str:
    """Return what a group of baseline scores in the journal is of: ``constant class``, ``untrained base``."""
    known = {"constant": "constant class", "untrained": "untrained base", "real": "real images"}
    return known.get(group, group)
