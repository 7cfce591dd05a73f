"""The small words of every report: a value with its interval, a name in a table."""

from __future__ import annotations

from collections.abc import Mapping


def interval_text(value: Mapping[str, float | None], digits: int = 3) -> str:
    """Return ``0.812 (0.770 to 0.850)``; without bounds the value alone, without a value a dash."""
    if value["value"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def cell(text: str) -> str:
    """Keep a name from breaking a table or a tag."""
    return str(text).replace("|", "/").replace("<", "(").replace(">", ")").replace("\n", " ")


def baseline(group: str) -> str:
    """Return what a group of baseline scores in the journal is of: ``constant class``, ``untrained base``."""
    known = {"constant": "constant class", "untrained": "untrained base", "real": "real images"}
    return known.get(group, group)
