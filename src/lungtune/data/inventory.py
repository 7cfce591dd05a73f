"""Inventory of a source: files read and left out, columns and folder words used, and what was guessed.

A source puts it in ``attrs["inventory"]`` of its case table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Guess:
    """A decision taken from names alone.

    Attributes:
        about: what it decides: ``patients``, ``masks``, ``parts`` or ``labels``.
        sentence: what was assumed, from what, with counts.
        option: the option that confirms or refuses it, as the user writes it; empty without one.
        stops: True if a search must not start without that option.
    """

    about: str
    sentence: str
    option: str = ""
    stops: bool = False


@dataclass
class Inventory:
    """Record of the files and columns that a source read, used and left out.

    Attributes:
        read: suffix (with its dot, lower case; empty for none) -> number of images read.
        left: reason files were left out -> suffix or name -> number of files.
        folders: folder name -> its meaning (``class covid_19``, ``part train``, ``masks``, ``left out``).
        columns: table column -> its use.
        unused: table columns that were not used.
        patients: how patients were identified, a phrase; empty where they are unknown.
        masks: how masks were paired, a phrase; empty without masks.
        guesses: decisions taken from names alone.
    """

    read: Counter[str] = field(default_factory=Counter)
    left: dict[str, Counter[str]] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    patients: str = ""
    masks: str = ""
    guesses: list[Guess] = field(default_factory=list)

    def leave(self, why: str, kind: str, count: int = 1) -> None:
        """Count files that are left out.

        Args:
            why: the reason, such as ``not an image``.
            kind: their suffix or name.
            count: how many.
        """
        self.left.setdefault(why, Counter())[kind] += count

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        left = {why: dict(kinds) for why, kinds in self.left.items()}
        guesses = [asdict(guess) for guess in self.guesses]
        return {**vars(self), "read": dict(self.read), "left": left, "guesses": guesses}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Inventory:
        """Inverse of :meth:`to_dict`."""
        left = {why: Counter(kinds) for why, kinds in values["left"].items()}
        guesses = [Guess(**guess) for guess in values["guesses"]]
        return cls(**{**values, "read": Counter(values["read"]), "left": left, "guesses": guesses})
