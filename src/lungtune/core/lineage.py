"""Lineage of a trial's weights: the segments of training, with their parameters and seeds, that led to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lungtune.core import contained
from lungtune.core.resource import TOLERANCE


@dataclass(frozen=True)
class Segment:
    """Part of a training, with one setting of the parameters.

    Attributes:
        params: every parameter by name.
        seed: of everything random in it.
        until: passes at which it ends; None while it is open.
    """

    params: Mapping[str, Any]
    seed: int
    until: float | None = None


Lineage = tuple[Segment, ...]
"""Segments in the order of training; each goes on from the state that the one before it left."""


@dataclass(frozen=True)
class Donor:
    """Checkpoint of a trial that another trial goes on from.

    Attributes:
        trial: number of the trial that trained it.
        fidelity: passes at the checkpoint.
        checkpoint: its path relative to the study; None where none was kept.
    """

    trial: int
    fidelity: float
    checkpoint: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Donor:
        """Build it from the journal's ``donor`` of a ``trial`` event; further keys are ignored.

        Raises:
            ValueError: the checkpoint is not below the study's folder.
        """
        checkpoint = data.get("checkpoint")
        return cls(data["trial"], data["fidelity"], None if checkpoint is None else contained.relative(checkpoint))


@dataclass(frozen=True)
class Stretch:
    """Part of a trial that it trains itself, from its beginning or a perturbation to the next perturbation.

    Attributes:
        lineage: of its weights; the last segment is the trial's own and open.
        begin: passes at which it begins.
        donor: checkpoint it begins with; None: it begins with fresh weights.
    """

    lineage: Lineage
    begin: float = 0.0
    donor: Donor | None = None

    @classmethod
    def following(cls, donor: Donor, before: Lineage, params: Mapping[str, Any], seed: int) -> Stretch:
        """Return the stretch that goes on from a donor's checkpoint.

        Args:
            donor: the checkpoint.
            before: lineage of the checkpoint.
            params: every parameter from now on.
            seed: of the trial that goes on.
        """
        return cls((*cut(before, donor.fidelity), Segment(params, seed)), donor.fidelity, donor)


def cut(lineage: Lineage, fidelity: float) -> Lineage:
    """Return the segments that led to ``fidelity`` passes; the last ends there. None at 0."""
    kept: list[Segment] = []
    begin = 0.0
    for segment in lineage:
        if begin >= fidelity - TOLERANCE:
            break
        begin = fidelity if segment.until is None else min(segment.until, fidelity)
        kept.append(replace(segment, until=begin))
    return tuple(kept)
