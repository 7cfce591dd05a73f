"""Trials and their history, rebuilt from journal events."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from lungtune.core import migration
from lungtune.core.lineage import Donor, Lineage, Segment, Stretch, cut
from lungtune.core.resource import TOLERANCE

CLONE = "clone"
"""Origin of a trial that a user added to a study (``lungtune clone``); it raises the number of wanted trials by one."""


class State(StrEnum):
    """State of a trial."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    PRUNED = "PRUNED"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Objective:
    """Objective of a search.

    Attributes:
        metric: the metric's name in reports.
        mode: ``max`` or ``min``.
        task: name of the task it is a metric of.
    """

    metric: str
    mode: str = "max"
    task: str = "classification"

    @property
    def own(self) -> str:
        """The metric's name within its task."""
        return self.metric.removeprefix(f"{self.task}.")

    @property
    def full(self) -> str:
        """The metric's full name, such as ``segmentation.dice``."""
        return f"{self.task}.{self.own}"

    @property
    def sign(self) -> int:
        """1 if higher is better, -1 if lower is."""
        return 1 if self.mode == "max" else -1

    def to_dict(self) -> dict[str, str]:
        """Return the journal form: the full name as ``metric``, ``mode``; ``reported_as`` if reports use another."""
        data = {"metric": self.full, "mode": self.mode}
        return data if self.metric == self.own else {**data, "reported_as": self.metric}

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> Objective:
        """Inverse of :meth:`to_dict`."""
        task, _, own = data["metric"].partition(".")
        return cls(data.get("reported_as", own), data["mode"], task)

    def better(self, value: float, than: float) -> bool:
        """True if ``value`` is better than ``than``; NaN never is."""
        if math.isnan(value):
            return False
        return math.isnan(than) or (value > than if self.mode == "max" else value < than)


@dataclass(frozen=True)
class Report:
    """One evaluation of a trial on the validation cases."""

    fidelity: float
    samples: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None
    time: float = 0.0
    segment: int = 0
    """Number of perturbations of the trial before it, see :meth:`Trial.lineage_at`."""


@dataclass
class Trial:
    """One configuration and all that happened to it.

    ``params`` holds every parameter, searched or fixed, as the trial trains with them now; a perturbation changes them.
    """

    number: int
    params: dict[str, Any]
    sampled: dict[str, Any]
    distributions: dict[str, str]
    seed: int
    origin: str
    sampler_attrs: dict[str, Any] = field(default_factory=dict)
    state: State = State.RUNNING
    reason: str = ""
    message: str = ""
    duplicate_of: int | None = None
    reports: list[Report] = field(default_factory=list)
    lost: int = 0
    """Number of deaths of its host since its last report."""
    paused: float = 0.0
    """The fidelity at which it was paused last, since its last perturbation."""
    stretches: list[Stretch] = field(default_factory=list)
    """Its own parts of its training: one, and one more for each perturbation."""
    spent: float = 0.0
    """Passes trained in the stretches before the last."""

    suggested_at: float = 0.0
    """Unix time of its suggestion."""
    ended_at: float = 0.0
    """Unix time of its end; 0 until then."""

    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What other modules made of this trial and keep, by name; not copied."""
    _best: tuple[list[Report], int, Objective, Report | None] | None = field(
        default=None, init=False, repr=False, compare=False
    )
    """Of the last :meth:`best`: reports, how many were compared, objective, result."""

    def __post_init__(self) -> None:
        self.stretches = self.stretches or [Stretch((Segment(self.params, self.seed),))]

    @property
    def segment(self) -> int:
        """Number of its perturbations."""
        return len(self.stretches) - 1

    @property
    def lineage(self) -> Lineage:
        """Lineage of its weights; the last segment is open."""
        return self.stretches[-1].lineage

    @property
    def donor(self) -> Donor | None:
        """Checkpoint that it began with, before any perturbation; None: with fresh weights."""
        return self.stretches[0].donor

    @property
    def fidelity(self) -> float:
        """Passes behind its weights, as far as reported; a perturbation may set it back."""
        last = self.reports[-1] if self.reports else None
        return last.fidelity if last is not None and last.segment == self.segment else self.stretches[-1].begin

    @property
    def reached(self) -> float:
        """Largest fidelity that it reported, or began with."""
        return max([self.fidelity, *(report.fidelity for report in self.reports)])

    @property
    def work(self) -> float:
        """Passes that it trained itself."""
        return self.spent + self.fidelity - self.stretches[-1].begin

    def lineage_at(self, report: Report) -> Lineage:
        """Return the lineage that a report of this trial was trained with; the last segment is open."""
        return self.stretches[report.segment].lineage

    def params_at(self, report: Report) -> Mapping[str, Any]:
        """Return the parameters that a report of this trial was trained with."""
        return self.lineage_at(report)[-1].params

    def best_params(self, objective: Objective, up_to: float = math.inf) -> dict[str, Any]:
        """Return the parameters of :meth:`best`; without a score the present ones."""
        best = self.best(objective, up_to)
        return dict(self.params if best is None else self.params_at(best))

    def lineage_of(self, fidelity: float, checkpoint: str | None = None) -> Lineage:
        """Return the lineage of a checkpoint of this trial: of its report if there is one, cut at ``fidelity``."""
        near = [report for report in self.reports if abs(report.fidelity - fidelity) < TOLERANCE]
        named = [report for report in near if checkpoint is not None and report.checkpoint == checkpoint]
        at = [self.lineage_at(report) for report in named or near]
        return cut(at[-1] if at else self.lineage, fidelity)

    def perturb(self, donor: Donor, before: Lineage, fidelity: float, params: Mapping[str, Any]) -> None:
        """Go on from a donor's checkpoint.

        Args:
            donor: the checkpoint.
            before: its lineage.
            fidelity: passes at which this trial is given up.
            params: every parameter from now on.
        """
        self.spent += fidelity - self.stretches[-1].begin
        self.stretches.append(Stretch.following(donor, before, params, self.seed))
        self.params, self.paused = dict(params), 0.0

    def as_of(self, report: Report) -> Trial:
        """Return a copy with the reports, parameters and stretches it had when ``report`` arrived."""
        place = next(i for i, each in enumerate(self.reports) if each is report)
        stretches = self.stretches[: report.segment + 1]
        return replace(
            self, params=dict(self.params_at(report)), reports=self.reports[: place + 1], stretches=stretches
        )

    def as_begun(self) -> Trial:
        """Return a copy with the parameters it began with, and the reports before its first perturbation."""
        if not self.segment:
            return self
        reports = [report for report in self.reports if report.segment == 0]
        begun = dict(self.stretches[0].lineage[-1].params)
        return replace(self, params=begun, reports=reports, stretches=self.stretches[:1])

    def best(self, objective: Objective, up_to: float = math.inf) -> Report | None:
        """Best report, of those at a fidelity ``<= up_to``; the only reduction of reports in lungtune.

        Reports from before a perturbation count.
        """
        best: Report | None = None
        begin, whole = 0, math.isinf(up_to)
        if whole and self._best is not None and self._best[0] is self.reports and self._best[2] == objective:
            _, begin, _, best = self._best  # reports are only added
        for report in self.reports[begin:]:
            value = report.metrics.get(objective.metric, math.nan)
            if report.fidelity > up_to or math.isnan(value):
                continue
            if best is None or objective.better(value, best.metrics[objective.metric]):
                best = report
        if whole:
            self._best = self.reports, len(self.reports), objective, best
        return best

    def score(self, objective: Objective, up_to: float = math.inf) -> float:
        """The score of :meth:`best`; NaN when there is none."""
        best = self.best(objective, up_to)
        return best.metrics[objective.metric] if best else math.nan

    def value(self, objective: Objective) -> float:
        """The best report's score; NaN when there is none."""
        return self.score(objective)


class History:
    """State of a study and its trials, replayed from journal events."""

    def __init__(self, events: Iterable[Mapping[str, Any]] = ()) -> None:
        self.study: dict[str, Any] = {}
        self.trials: dict[int, Trial] = {}
        self.target = 0
        self.engine: str | None = None
        """Engine of the last run, see ``search.preparation``; None in journals that do not say."""
        self.versions: dict[str, str] = {}
        """Versions {package: version} of the last run."""
        self.baselines: dict[str, dict[str, float]] = {}
        self.order: list[tuple[int, Report]] = []
        """Every report in order of arrival, as (trial number, report); a scheduler's state is rebuilt from it."""
        self.outcomes: list[tuple[str, int]] = []
        """(``report`` or ``end``, trial number) in order of arrival, and (``stop``, 0) where a driver left."""
        self.requests: dict[str, int] = {}
        """Trials that users asked for, by the request's id, see ``search.cloning``."""
        self.clones = 0
        """Number of trials that users added."""
        self.starts: list[int] = []
        """Numbers of the trials of start points."""
        self._leader: Trial | None = None
        self._touched: set[int] = set()
        """Trials that reported since the last :meth:`leader`."""
        self._objective: tuple[dict[str, Any], Objective] | None = None
        for event in events:
            self.apply(event)

    @property
    def objective(self) -> Objective:
        """The study's objective."""
        if self._objective is None or self._objective[0] is not self.study:
            self._objective = self.study, Objective.from_dict(self.study["space"]["objective"])
        return self._objective[1]

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply one journal event; unknown kinds are ignored."""
        kind = event["event"]
        if kind == "study":
            self.study = migration.study(event)
            self.target = event["space"]["trials"]
            self.versions = dict(event.get("versions") or {})
        elif kind == "open":
            self.engine = event.get("engine", self.engine)
            self.versions = dict(event.get("versions") or self.versions)
        elif kind == "target":
            self.target = event["trials"]
        elif kind == "baselines":
            self.baselines = {key: value for key, value in event.items() if isinstance(value, dict)}
        elif kind == "trial":
            known = {name: event[name] for name in ("params", "sampled", "distributions", "seed", "origin")}
            attrs = event.get("sampler_attrs", {})
            self.trials[event["trial"]] = Trial(
                event["trial"],
                **known,
                sampler_attrs=attrs,
                stretches=self._beginning(event),
                suggested_at=event.get("time", 0.0),
            )
            if known["origin"] == "start":
                self.starts.append(event["trial"])
            if known["origin"] == CLONE:
                self.target += 1
                self.clones += 1
                self.requests[event.get("request", "")] = event["trial"]
        elif kind == "report":
            metrics = {sys.intern(name): float(value) for name, value in event["metrics"].items()}
            trial = self.trials[event["trial"]]
            values = event["fidelity"], event["samples"], metrics, event["checkpoint"], event["time"]
            report = Report(*values, segment=trial.segment)
            trial.reports.append(report)
            trial.lost = 0
            self._touched.add(event["trial"])
            self.order.append((event["trial"], report))
            self.outcomes.append((kind, event["trial"]))
        elif kind == "perturb":
            donor = Donor(event["donor"], event["donor_fidelity"], event["checkpoint"])
            before = self.trials[donor.trial].lineage_of(donor.fidelity, donor.checkpoint)
            self.trials[event["trial"]].perturb(donor, before, event["fidelity"], event["params"])
        elif kind == "pause":
            trial = self.trials[event["trial"]]
            trial.state, trial.paused = State.PAUSED, event["fidelity"]
        elif kind == "start" and self.trials[event["trial"]].state is State.PAUSED:
            self.trials[event["trial"]].state = State.RUNNING
        elif kind == "lost" and not event.get("fault"):  # a fault of the machine is not charged to the trial
            self.trials[event["trial"]].lost += 1
        elif kind == "end":
            trial = self.trials[event["trial"]]
            trial.state, trial.ended_at = State(event["state"]), event.get("time", 0.0)
            self.outcomes.append((kind, event["trial"]))
            trial.reason, trial.message = event.get("reason", ""), event.get("message", "")
            trial.duplicate_of = event.get("duplicate_of")
            if trial.duplicate_of is not None:
                trial.reports = list(self.trials[trial.duplicate_of].reports)
        elif kind == "stop":
            self.outcomes.append((kind, 0))

    def _beginning(self, event: Mapping[str, Any]) -> list[Stretch]:
        """Return the first stretch of a trial that begins with another one's checkpoint; [] for all others."""
        if not event.get("donor"):
            return []
        donor = Donor.from_dict(event["donor"])
        before = self.trials[donor.trial].lineage_of(donor.fidelity, donor.checkpoint)
        return [Stretch.following(donor, before, event["params"], event["seed"])]

    def of(self, *states: State) -> list[Trial]:
        """Trials in one of ``states``, by number."""
        return [trial for _, trial in sorted(self.trials.items()) if trial.state in states]

    def leader(self) -> Trial | None:
        """Return the best trial that has not failed, running ones included; None without a score."""
        if self._leader is not None and self._leader.state is State.FAIL:
            self._leader, self._touched = None, set(self.trials)
        for number in sorted(self._touched):
            trial = self.trials[number]
            value = trial.value(self.objective)
            if trial.state is State.FAIL or math.isnan(value):
                continue
            best = math.nan if self._leader is None else self._leader.value(self.objective)
            if self.objective.better(value, best) or (value == best and self._leader and number < self._leader.number):
                self._leader = trial
        self._touched.clear()
        return self._leader

    def rank(self, trial: Trial) -> tuple[float, int] | None:
        """Return what trials are ranked by, lowest first; None for one that is running, failed or a duplicate, or has
        no score."""
        if trial.state not in (State.COMPLETE, State.PRUNED, State.PAUSED) or trial.duplicate_of is not None:
            return None
        value = trial.value(self.objective)
        return None if math.isnan(value) else (-self.objective.sign * value, trial.number)

    def ranked(self) -> list[Trial]:
        """Finished and paused trials that have a score, best first; duplicates of a trial are left out."""
        ranks = sorted(rank for trial in self.trials.values() if (rank := self.rank(trial)) is not None)
        return [self.trials[number] for _, number in ranks]

    def counted_for_savings(self) -> list[Trial]:
        """Trials that ended at full fidelity or by the scheduler, over which savings of early stopping are counted.

        Excludes paused trials, which may be resumed, duplicates, and those that earlier versions ended when the time
        budget was spent.
        """
        ended = self.of(State.COMPLETE, State.PRUNED)
        return [trial for trial in ended if trial.duplicate_of is None and trial.reason != "budget"]

    @property
    def work(self) -> float:
        """Passes trained by all trials together."""
        return sum(trial.work for trial in self.trials.values() if trial.duplicate_of is None)
