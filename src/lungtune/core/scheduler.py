"""Interface of schedulers (early stopping of trials) and the scheduler settings of a space."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from lungtune.core import params as parameters
from lungtune.core.resource import Fidelity
from lungtune.core.trial import Objective, Trial
from lungtune.errors import SpaceError, did_you_mean

S = TypeVar("S")


class Decision(Enum):
    """Result of a report for its trial."""

    CONTINUE = "continue"
    PAUSE = "pause"
    STOP = "stop"


class Scheduler(ABC, Generic[S]):
    """Decides after each report if a trial continues, pauses or stops.

    The state must be a function of the recorded reports in their order: on resume the journal's reports are recorded
    again by a new instance, which must return the same decisions.

    Args:
        fidelity: training length, and the levels at which trials can be compared.
        objective: metric and direction.
        settings: an instance of ``Settings``.
    """

    Settings: ClassVar[type]
    """Frozen dataclass of ``core.params.param`` fields, set by the space file's ``scheduler: {<field>: ...}``."""

    def __init__(self, fidelity: Fidelity, objective: Objective, settings: S) -> None:
        self.fidelity = fidelity
        self.objective = objective
        self.settings = settings

    @abstractmethod
    def record(self, trial: Trial, fidelity: float) -> Decision:
        """Record that ``trial`` reported at ``fidelity`` passes; return the decision.

        Args:
            trial: with this report in ``trial.reports``; on replay later ones too, which must not count.
            fidelity: passes of the report.
        """

    @abstractmethod
    def promotable(self, trials: Mapping[int, Trial], last: bool = False) -> int | None:
        """Return the number of the paused trial to resume next; None if no paused trial should resume now.

        Args:
            trials: every trial by number, in its present state.
            last: True if no trial is running and none will start; a trial not returned now stays paused for good.
        """


class TuneScheduler(Scheduler[S]):
    """Settings of a scheduler of Ray Tune, which decides in the Tune backend; see ``search.backends.ray_tune``.

    Its decisions are in the journal and are not recomputed: PBT, for one, draws at random.
    """

    perturbs: ClassVar[bool] = False
    """True if it changes parameters within a trial."""

    suggests: ClassVar[bool] = False
    """True if it brings a searcher of its own."""

    def record(self, trial: Trial, fidelity: float) -> Decision:
        """Return STOP if no report up to ``fidelity`` has a finite score, else CONTINUE."""
        return Decision.CONTINUE if math.isfinite(trial.score(self.objective, up_to=fidelity)) else Decision.STOP

    def promotable(self, trials: Mapping[int, Trial], last: bool = False) -> int | None:
        """Return None: Ray Tune resumes its paused trials."""
        return None


@dataclass(frozen=True)
class SchedulerConfig:
    """A space's scheduler as plain data, as the journal stores it.

    Attributes:
        name: module name of the scheduler.
        settings: values of its ``Settings`` fields; fields left out keep their default.
    """

    name: str = "asha"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"name": ..., <field>: ...}``."""
        return {"name": self.name, **self.settings}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SchedulerConfig:
        """Inverse of :meth:`to_dict`."""
        return cls(data["name"], {key: value for key, value in data.items() if key != "name"})

    def changed(self, value: Any, lookup: Callable[[str], type[Scheduler[Any]]]) -> SchedulerConfig:
        """Return this config updated from a space file or ``--set``, with every setting validated and completed.

        Another name starts from that scheduler's defaults; the same name keeps the settings that are not mentioned.

        Args:
            value: a name, or a mapping of ``name`` and settings.
            lookup: returns a scheduler class by name; raises SpaceError for unknown names.

        Raises:
            SpaceError: the name or a setting is unknown, or a value is not accepted.
        """
        changes = dict(value) if isinstance(value, Mapping) else {"name": value}
        name = str(changes.pop("name", self.name))
        known = parameters.specs(lookup(name).Settings)
        for key in changes:
            if key not in known:
                hint = did_you_mean(str(key), known) or f" {name} has none."
                raise SpaceError(f"'{key}' is not a setting of scheduler '{name}'.{hint}")
        values = {key: spec.default for key, spec in known.items()}
        values |= (dict(self.settings) if name == self.name else {}) | changes
        return SchedulerConfig(
            name, {key: replace(spec, name=f"scheduler.{key}").check(values[key]) for key, spec in known.items()}
        )
