"""MLflow's limits on names, lengths and numbers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME = 250
PARAM = 6000
TAG = 8000
RUN_NAME = 200
EXPERIMENT = 400
DIGEST = 36
METRICS_PER_BATCH = 1000
ITEMS_PER_BATCH = 100
DIGITS = 6
"""Significant digits of what is shown in a column; the journal and the recipes hold all of them."""
CUT = " …"

_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_INT64 = 2**63 - 1


def name(text: str) -> str:
    """Return ``text`` as a name MLflow accepts for a metric, a parameter or a tag.

    Letters, digits and ``_ - . : /`` stay; a name must also not resolve to another one when read as a path
    (``a//b``, ``../a``, ``/a``), because file stores use it as one.
    """
    parts = [part.strip() for part in _FORBIDDEN.sub("_", str(text)).split("/")]
    kept = [part if part.strip(".") else "_" * len(part) for part in parts if part]
    return "/".join(kept)[:NAME].rstrip("/ ") or "_"


def clip(text: str, limit: int) -> str:
    """Return ``text`` cut to ``limit`` characters, the cut marked."""
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def plain(value: Any) -> str:
    """Return a parameter's value as the text MLflow keeps: numbers short, structures as JSON."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return f"{value:.{DIGITS}g}"
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def params(values: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters with legal names and values; of two names that become equal the later gets a number."""
    return {key: clip(plain(value), PARAM) for key, value in _distinct(values)}


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Return tags with legal names and values; empty ones are left out."""
    return {key: clip(plain(value), TAG) for key, value in _distinct(values) if value not in (None, "")}


def metrics(values: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """Return the finite metrics under legal names, and the names of those that are NaN or infinite.

    A non-finite value is left out: MLflow keeps infinity as 1.8e308, which ruins every chart it appears in.
    What is not a number (a text, a flag) is no metric and is left out of both.
    """
    finite: dict[str, float] = {}
    odd: list[str] = []
    for key, value in _distinct(dict(_flat(values))):
        if not is_number(value):
            continue
        if math.isfinite(float(value)):
            finite[key] = float(value)
        else:
            odd.append(key)
    return finite, odd


def is_number(value: Any) -> bool:
    """True if a journal's value is a number, including NaN and infinity (written as words)."""
    if isinstance(value, str):
        return value.lower().lstrip("+-") in ("nan", "inf", "infinity")
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rounded(value: float) -> float:
    """Return a number with as many digits as a column shows."""
    return float(f"{value:.{DIGITS}g}")


def step(samples: Any) -> int:
    """Return a count of samples as a step MLflow's 64 bits hold."""
    return max(-_INT64, min(_INT64, round(float(samples))))


def millis(seconds: Any) -> int:
    """Return unix seconds as MLflow's milliseconds."""
    return max(0, min(_INT64, round(float(seconds) * 1000)))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _distinct(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    seen: set[str] = set()
    for original, value in values.items():
        legal = candidate = name(original)
        number = 2
        while candidate in seen:
            candidate = f"{legal[: NAME - 6]}_{number}"
            number += 1
        seen.add(candidate)
        yield candidate, value
