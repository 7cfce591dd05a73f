"""Identity of a test part by its content, whatever study, seed, folder or file names it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SAMPLE = 2048
"""Maximum number of digests that are kept of a part, to recognise one that shares images with it."""

_WIDTH = 12
"""Hexadecimal digits of a kept digest."""


@dataclass(frozen=True)
class LockedPart:
    """Identity of a test part.

    Attributes:
        key: hex SHA-256 of its images' digests and labels, in no order.
        cases: number of cases.
        sample: the smallest ``SAMPLE`` of its images' digests, shortened, ascending. As the same images are small in
            every part, two samples tell how much two parts share.
    """

    key: str
    cases: int
    sample: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str]]) -> LockedPart:
        """Return the identity of a part from the digest of each image (hex, at least 12 digits) and its label."""
        pairs = sorted(rows)
        text = "\n".join(f"{digest} {label}" for digest, label in pairs)
        sample = sorted({digest[:_WIDTH] for digest, _ in pairs})[:SAMPLE]
        return cls(hashlib.sha256(text.encode()).hexdigest(), len(pairs), tuple(sample))

    def same(self, other: LockedPart) -> bool:
        """True if the smaller of the two parts has at least half of its images in the other, whatever their labels."""
        if self.key == other.key:
            return True
        ends = [part.sample[-1] for part in (self, other) if len(part.sample) == SAMPLE]
        end = min(ends, default="g")  # above it one of the samples may lack images of its part
        mine, theirs = ({digest for digest in part.sample if digest <= end} for part in (self, other))
        fewer = min(len(mine), len(theirs))
        return fewer > 0 and 2 * len(mine & theirs) >= fewer

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger's form."""
        return {"part": self.key, "cases": self.cases, "sample": "".join(self.sample)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> LockedPart | None:
        """Inverse of :meth:`to_dict`; None for an entry without a part."""
        if not entry.get("part"):
            return None
        text = str(entry.get("sample", ""))
        sample = tuple(text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH))
        return cls(str(entry["part"]), int(entry.get("cases", 0)), sample)
