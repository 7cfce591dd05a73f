"""Which trials go on from a rung, as the space file says it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lungtune.errors import SpaceError, did_you_mean

SCHEDULERS = ("asha", "none")
MODES = ("promote", "stop")


@dataclass(frozen=True)
class Scheduler:
    """How a search spends less on bad trials.

    Attributes:
        name: ``asha`` compares trials at rungs; ``none`` trains every trial to its full length.
        mode: ``promote`` pauses every trial at a rung and resumes the best; ``stop`` ends those that are not among
            the best of all that came before.
    """

    name: str = "asha"
    mode: str = "promote"

    def __post_init__(self) -> None:
        for field, value, known in (("name", self.name, SCHEDULERS), ("mode", self.mode, MODES)):
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise SpaceError(f"scheduler.{field} must be {' or '.join(known)}, but got {value!r}.{hint}")

    @classmethod
    def of(cls, value: Any, before: Scheduler | None = None) -> Scheduler:
        """Build one from what a file says: a name, or a mapping of fields that replace those of ``before``.

        Raises:
            SpaceError: a field is unknown, or its value is.
        """
        names = [f.name for f in dataclasses.fields(cls)]
        if not isinstance(value, Mapping):
            value = {"name": value}
        for key in value:
            if key not in names:
                raise SpaceError(f"'{key}' is not a field of scheduler.{did_you_mean(key, names)}")
        return dataclasses.replace(before or cls(), **value)
