"""Migration of journals written by earlier versions. No other module uses earlier names.

| schema | written by | differences |
|---|---|---|
| 1 | 0.1 | an objective names no task; a space without ``scheduler`` stops at rungs; ``none`` has an unused ``mode`` |
| 2 | this version | |

Recipes, split manifests, banks and checkpoints of 0.1 need no change: what they lack is optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lungtune.errors import StudyError

SCHEMA = 2

_GENERATION = ("cmmd", "coverage")
"""Metrics of 0.1 that were a generator's; all others were a classifier's."""


def study(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a journal's ``study`` event in the present schema; the journal itself is never rewritten.

    Raises:
        StudyError: a newer version wrote it.
    """
    schema = event.get("schema", 1)
    if schema > SCHEMA:
        raise StudyError(
            f"the study '{event.get('name', '')}' must be of schema {SCHEMA} or older, but is of schema {schema}; "
            f"update lungtune."
        )
    if schema == SCHEMA:
        return dict(event)
    return {**event, "schema": SCHEMA, "space": _space(event["space"])}


def _space(space: Mapping[str, Any]) -> dict[str, Any]:
    metric = space["objective"]["metric"]
    task = "generation" if metric in _GENERATION else "classification"
    scheduler = dict(space.get("scheduler") or {"name": "asha", "mode": "stop"})
    if scheduler["name"] == "none":
        scheduler.pop("mode", None)
    return {
        **space,
        "objective": {**space["objective"], "metric": f"{task}.{metric}"},
        "scheduler": scheduler,
        "members": [_space(member) for member in space.get("members", ())],
    }
