"""Target state of a study's MLflow runs: a pure function of the journal's events.

The same journal always gives the same runs, points, times and steps, so sending any of it twice changes nothing.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lungtune.core.trial import CLONE, History, State, Trial
from lungtune.tracking import limits, run_markdown

STUDY = "study"
"""Key of the parent run; a child run's key is its trial's number as text."""

STATUS = {
    State.COMPLETE: "FINISHED",
    State.PRUNED: "KILLED",
    State.FAIL: "FAILED",
    State.RUNNING: "RUNNING",
    State.PAUSED: "RUNNING",  # at a rung: it may be resumed
}
PAUSED = State.PAUSED.value
"""State of what waits: at a rung, or (MLflow shows it as SCHEDULED) for the next ``--resume``."""

UNRANKED = ("loss", "samples_per_second", "peak_memory")
"""No ``best_<metric>`` for names that begin so, nor for metrics of a class: MLflow draws 30 metrics at most, and these
compare no trials."""


class Point(NamedTuple):
    """One value of one metric."""

    key: str
    value: float
    time: int
    step: int


@dataclass
class RunView:
    """Target content of one MLflow run."""

    key: str
    name: str
    start: int
    tags: dict[str, str]
    params: dict[str, str]
    points: list[Point] = field(default_factory=list)
    status: str = "RUNNING"
    end: int | None = None
    files: dict[str, str] = field(default_factory=dict)
    events: int = 0
    """Number of journal events that this run accounts for; each event counts for one run."""
    forgotten: int = 0
    """Number of points before those in ``points``: delivered, and no longer held."""
    seen: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    """Metrics by (step, segment)."""

    @property
    def total(self) -> int:
        """Number of points so far."""
        return self.forgotten + len(self.points)

    def forget(self, count: int) -> None:
        """Let go of the first ``count`` points."""
        del self.points[: max(0, count - self.forgotten)]
        self.forgotten = max(self.forgotten, count)


class Projection:
    """Accumulates a journal's events into the target state of the runs."""

    def __init__(self) -> None:
        self.history = History()
        self.changed: dict[str, None] = {}
        """Keys of the runs that changed since they were taken out of it, the parent first."""
        self.ignored = 0
        self.study_id = ""
        self.driver: tuple[int, str] = 0, ""
        """Process id and host of the last driver that the journal names."""
        self._runs: dict[str, RunView] = {}
        self._summary: dict[str, Any] = {}
        self._driven = False
        self._noted = True
        self._time = self._best_at = 0
        self._ranks: list[tuple[float, int]] = []
        """Heap of the ranks of trials when they paused or ended; those that no longer hold are removed when met."""

    @property
    def metrics(self) -> set[str]:
        """Names of the metrics of all runs, as far as their points are held; others in MLflow are the user's own."""
        metric = self.history.objective.metric
        held = {point.key for run in self._runs.values() for point in run.points}
        return held | {limits.name(metric), limits.name(f"best_{metric}")}

    def events(self, key: str) -> int:
        """Return the number of events of a run."""
        return self._runs[key].events

    @property
    def runs(self) -> dict[str, RunView]:
        """All runs by key, the parent first."""
        if not self._noted:  # once for all events since the last look: it ranks all trials
            self._noted = True
            note = run_markdown.study(self.history, self._summary)
            self._runs[STUDY].tags["mlflow.note.content"] = note
        return self._runs

    @property
    def ready(self) -> bool:
        """True once the journal's first event, the study, has been read."""
        return bool(self.study_id)

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment: studies of one family on one kind of data are compared side by side."""
        study = self.history.study
        source = data_name(study.get("data", {}))
        return limits.clip(f"{study['space']['family']} on {source}", limits.EXPERIMENT)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Apply one event. One that does not fit the earlier ones is skipped and counted in ``ignored``."""
        try:
            self._feed(event)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self.ignored += 1

    def _feed(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if (kind == "study") == self.ready:  # a second beginning, or anything before the first
            self.ignored += 1
            return
        self._time = time = limits.millis(event["time"])
        if kind == "study":
            self._begin(event, time)
        elif kind in ("trial", "start", "report", "perturb", "pause", "lost", "end"):
            self._trial_event(kind, event, time)
        else:
            self._study_event(kind, event, time)

    def _begin(self, event: Mapping[str, Any], time: int) -> None:
        history = History([event])
        space = history.study["space"]
        history.objective  # noqa: B018 - a study without one can't be projected
        self.history, self.study_id = history, str(event["id"])
        git = event.get("git")
        commit = git.get("commit") if isinstance(git, Mapping) else git
        tags = {
            "state": State.RUNNING.value,
            "study": event["name"],
            "family": space["family"],
            "profile": space.get("profile"),
            "data": event["data"].get("source"),
            "lungtune.kind": "study",
            "lungtune.study_id": self.study_id,
            "lungtune.data_hash": event["data"].get("hash"),
            "lungtune.versions": ", ".join(f"{k} {v}" for k, v in dict(event.get("versions") or {}).items()),
            "mlflow.source.name": _command(event.get("command")),
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": commit,
            "mlflow.user": "lungtune",
        }
        title = limits.clip(str(event["name"]), limits.RUN_NAME)
        run = RunView(STUDY, title, time, limits.tags(tags), _settings(event))
        run.files["space.yaml"] = str(space.get("text") or "")
        run.files["settings.json"] = json.dumps(dict(event), indent=1, ensure_ascii=False, default=str)
        run.events = 1
        self._runs[STUDY] = run
        self.changed[STUDY] = None

    def _study_event(self, kind: str, event: Mapping[str, Any], time: int) -> None:
        run = self._runs[STUDY]
        self.history.apply(event)
        run.events += 1
        if kind == "open":
            self._driven, self.driver = True, (int(event.get("pid") or 0), str(event.get("host") or ""))
            if "reason" in run.tags:
                run.tags["reason"] = event.get("why") or "-"  # why the last driver left is no longer true
            self._state(run, State.RUNNING.value, "RUNNING", None)
            for trial in self.history.of(State.RUNNING, State.PAUSED):
                self._state(self._runs[str(trial.number)], trial.state.value, STATUS[trial.state], None)
        elif kind == "baselines":
            for group, values in self.history.baselines.items():
                shown = {f"baseline_{group}_{key}": limits.rounded(float(value)) for key, value in values.items()}
                self._add(run, shown, time, 0)
        elif kind == "summary":
            self._summary = {key: value for key, value in event.items() if key not in ("event", "time")}
            self._settle(time)
        elif kind == "stop":
            self._driven = False
            run.tags.update(limits.tags({"reason": event.get("why")}))
            self._settle(time)
        elif kind == "test":
            scores = ", ".join(f"{name} {value:.4g}" for name, value in event["metrics"].items())
            run.tags.update(limits.tags({"test": f"{event['sentence']}; {event['file']}: {scores}"}))
        elif kind == "target":
            run.tags["trials"] = str(self.history.target)
        self._note()

    def abandon(self, why: str) -> None:
        """Set unfinished runs to waiting: no driver is there, though the journal does not say that it left."""
        run = self._runs[STUDY]
        if run.status == "RUNNING":
            self._driven = False
            run.tags.update(limits.tags({"reason": why}))
            self._settle(self._time)
            self._note()

    def _settle(self, time: int) -> None:
        """Set unfinished runs to waiting, because the driver has left or is about to."""
        run = self._runs[STUDY]
        left = self.history.of(State.RUNNING, State.PAUSED)
        ended = len(self.history.trials) - len(left)
        if ended == len(self.history.trials) and (ended >= self.history.target or self._summary):
            self._state(run, State.COMPLETE.value, "FINISHED", time)
        elif not self._driven:
            self._state(run, PAUSED, "SCHEDULED", None)
            for trial in left:
                self._state(self._runs[str(trial.number)], PAUSED, "SCHEDULED", None)

    def _trial_event(self, kind: str, event: Mapping[str, Any], time: int) -> None:
        number = int(event["trial"])
        if (kind == "trial") == (number in self.history.trials):
            raise ValueError("a trial begins once, before its other events")
        if kind == "end" and self.history.trials[number].state not in (State.RUNNING, State.PAUSED):
            raise ValueError("a trial ends once")
        numbers = {k: v for k, v in (event.get("metrics") or {}).items() if limits.is_number(v)}
        self.history.apply({**event, "metrics": numbers})
        trial = self.history.trials[number]
        if kind == "trial":
            self._open(trial, time)
            if trial.origin == CLONE:
                self._runs[STUDY].tags["trials"] = str(self.history.target)
                self.changed[STUDY] = None
        run = self._runs[str(number)]
        run.events += 1
        self.changed[run.key] = None
        if kind in ("pause", "end") and (rank := self.history.rank(trial)) is not None:
            heapq.heappush(self._ranks, rank)
        if kind == "start":
            attempt = int(event.get("attempt") or 1)
            run.tags.update({"attempts": str(attempt)} if attempt > 1 else {})
            self._state(run, State.RUNNING.value, "RUNNING", None)
        elif kind == "report":
            self._add(run, event["metrics"], time, limits.step(event["samples"]), trial.segment)
        elif kind == "perturb":
            self._perturb(run, trial, event, time)
        elif kind == "pause":
            self._state(run, PAUSED, STATUS[State.PAUSED], None)
        elif kind == "lost":
            run.tags.update(limits.tags({"lost": f"{trial.lost}x, last: {event.get('why', '')}"}))
        elif kind == "end":
            self._end(run, trial, time)

    def _open(self, trial: Trial, time: int) -> None:
        study = self.history.study
        members = {member["name"]: member for member in study["space"].get("members", ())}
        family = members.get(trial.params.get("space"), study["space"])["family"]
        tags = {
            "state": State.RUNNING.value,
            "study": study["name"],
            "family": family,
            "profile": study["space"].get("profile"),
            "origin": trial.origin,
            "lungtune.kind": "trial",
            "lungtune.study_id": self.study_id,
            "lungtune.trial": trial.number,
            "lungtune.seed": trial.seed,
            "mlflow.source.name": _command(study.get("command")),
            "mlflow.source.type": "LOCAL",
            "mlflow.user": "lungtune",
        }
        params = limits.params({**trial.params, "family": family})
        title = limits.clip(f"trial {trial.number:03d} · {family}", limits.RUN_NAME)
        if trial.donor is not None:
            tags["donor"] = f"trial {trial.donor.trial:03d} at {trial.donor.fidelity:g} passes"
        self._runs[str(trial.number)] = RunView(str(trial.number), title, time, limits.tags(tags), params)

    def _perturb(self, run: RunView, trial: Trial, event: Mapping[str, Any], time: int) -> None:
        """Add what a perturbation changed as tags, because MLflow's parameters stay those of the trial's beginning."""
        before = trial.stretches[-2].lineage[-1].params
        changed = {name: value for name, value in trial.params.items() if before.get(name) != value}
        text = ", ".join(f"{name}={limits.plain(value)}" for name, value in changed.items()) or "no parameter"
        took = f"at {event['fidelity']:g} passes from trial {event['donor']:03d} at {event['donor_fidelity']:g}: {text}"
        now = {f"param.{name}": value for name, value in trial.params.items() if f"param.{name}" in run.tags}
        now |= {f"param.{name}": value for name, value in changed.items()}
        run.tags.update(limits.tags({"perturbations": trial.segment, f"perturb.{trial.segment}": took, **now}))
        steps = [limits.step(report.samples) for report in trial.reports]
        self._add(run, {"perturbation": float(trial.segment)}, time, max(steps, default=0), trial.segment)

    def _end(self, run: RunView, trial: Trial, time: int) -> None:
        run.tags.update(limits.tags({"reason": trial.reason, "duplicate_of": trial.duplicate_of}))
        self._state(run, trial.state.value, STATUS[trial.state], max(time, run.start))  # a clock may have been set back
        best = trial.best(self.history.objective)
        if best is not None and trial.state is not State.FAIL:
            of_class = tuple(f"_{name}" for name in self.history.study["data"].get("classes", ()))
            compare = [k for k in best.metrics if not k.startswith(UNRANKED) and not k.endswith(of_class)]
            ranked = {f"best_{k}": limits.rounded(best.metrics[k]) for k in compare}
            self._add(run, {**ranked, "passes": trial.work}, time, 0)  # at step 0 MLflow draws bars, not dots
        if trial.state is State.FAIL and trial.message:
            run.files["traceback.txt"] = trial.message
        run.tags["mlflow.note.content"] = run_markdown.trial(self.history, trial)
        self._progress(trial, time)
        self._note()

    def _progress(self, trial: Trial, time: int) -> None:
        """The parent's own points: the best score whenever it changes, and the start's score."""
        run, objective = self._runs[STUDY], self.history.objective
        if trial.origin == "start" and trial.state is not State.FAIL:
            self._add(
                run, {f"baseline_start_{objective.metric}": limits.rounded(trial.as_begun().value(objective))}, time, 0
            )
        best = self._best()
        if best is not None and run.tags.get("best_trial") != str(best.number):
            run.tags["best_trial"] = str(best.number)
            self._best_at = max(time, self._best_at + 1)  # of equal steps MLflow shows the latest
            value = limits.rounded(best.value(objective))
            run.points.append(Point(limits.name(f"best_{objective.metric}"), value, self._best_at, 0))

    def _best(self) -> Trial | None:
        """Return the first of ``history.ranked()``, without ranking all trials."""
        while self._ranks:
            trial = self.history.trials[self._ranks[0][1]]
            if self.history.rank(trial) == self._ranks[0]:
                return trial
            heapq.heappop(self._ranks)
        return None

    def _note(self) -> None:
        self._noted = False
        self.changed[STUDY] = None

    def _add(self, run: RunView, values: Mapping[str, Any], time: int, step: int, segment: int = 0) -> None:
        """Append points; of a report repeated after a crash (same trial, segment and step) the first stays."""
        finite, odd = limits.metrics(values)
        for key, value in finite.items():
            if key not in run.seen.setdefault((step, segment), set()):
                run.seen[step, segment].add(key)
                run.points.append(Point(key, value, time, step))
        if odd:
            run.tags["nonfinite"] = limits.clip(f"{', '.join(odd)} at {step} samples", limits.TAG)

    def _state(self, run: RunView, state: str, status: str, end: int | None) -> None:
        run.tags["state"], run.status, run.end = state, status, end
        self.changed[run.key] = None


def data_name(data: Mapping[str, Any]) -> str:
    """Return a short name of a data source: ``chest_xray`` for ``chest_xray:DIR``, ``folder:name`` for own data."""
    source, _, path = str(data.get("source") or "data").partition(":")
    own = source in ("folder", "table") and path
    return f"{source}:{path.rstrip('/').rpartition('/')[2]}" if own else source


def _command(command: Any) -> str:
    return " ".join(map(str, command)) if isinstance(command, list | tuple) else str(command or "lungtune")


def _settings(event: Mapping[str, Any]) -> dict[str, str]:
    """The resolved settings as the parent's parameters, grouped so that they don't mix with the trials' columns."""
    space = event["space"]
    flat: dict[str, Any] = {"family": space["family"], "space": space["name"], "seed": event.get("seed")}
    flat |= {key: space[key] for key in ("profile", "sampler", "trials", "rungs") if key in space}
    flat["objective"] = f"{space['objective']['metric']} ({space['objective'].get('mode', 'max')})"
    for group in ("fidelity", "base", "fixed", "axes"):
        values = space.get(group)
        if isinstance(values, Mapping):
            flat |= {
                f"{group}.{key}": run_markdown.axis(value) if group == "axes" else value
                for key, value in values.items()
            }
    flat |= {f"data.{key}": value for key, value in event["data"].items() if value is not None}
    return limits.params({k: v for k, v in flat.items() if not (isinstance(v, float) and math.isnan(v))})
