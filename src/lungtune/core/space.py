"""A search space, resolved: plain data, with nothing left to look up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution

from lungtune.core.fidelity import Fidelity
from lungtune.core.scheduler import Scheduler
from lungtune.core.trial import Objective

SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2")
COUNTS = {"trials": 1, "slots": 0, "max_slots": 1}
"""Whole numbers of a space, and the least value of each."""


@dataclass(frozen=True)
class SearchSpace:
    """What is searched, resolved for one profile. Everything in it is plain data."""

    name: str
    family: str
    summary: str
    profile: str
    objective: Objective
    sampler: str
    trials: int
    fidelity: Fidelity
    base: Mapping[str, Any]
    fixed: Mapping[str, Any]
    axes: Mapping[str, BaseDistribution]
    start: tuple[Mapping[str, Any], ...]
    data: str | None = None
    seed: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    slots: int = 0
    """Trials that train together on a device; 0: measured there."""
    max_slots: int = 16
    """Most that the measurement may choose."""
    scheduler: Scheduler = field(default_factory=Scheduler)
    text: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able data from which :meth:`from_dict` builds an equal space."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["objective"] = dataclasses.asdict(self.objective)
        data["fidelity"] = dataclasses.asdict(self.fidelity)
        data["scheduler"] = dataclasses.asdict(self.scheduler)
        data["axes"] = {name: distribution_to_json(axis) for name, axis in self.axes.items()}
        data["start"] = [dict(point) for point in self.start]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Build a space from :meth:`to_dict`'s data; unknown keys are passed over.

        Data without a scheduler is of a time when there was one only: it stopped trials, and goes on doing so.
        """
        known = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        known["objective"] = Objective(**known["objective"])
        known["fidelity"] = Fidelity(**known["fidelity"])
        known["scheduler"] = Scheduler(**known.get("scheduler", {"name": "asha", "mode": "stop"}))
        known["axes"] = {name: json_to_distribution(text) for name, text in known["axes"].items()}
        known["start"] = tuple(known["start"])
        return cls(**known)
