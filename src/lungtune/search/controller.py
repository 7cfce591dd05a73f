"""Decisions of a search, each written to the journal before it takes effect. Independent of the backend."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lungtune import schedulers
from lungtune.core import machine, synthetic
from lungtune.core.resource import TOLERANCE
from lungtune.core.scheduler import Decision, TuneScheduler
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import CLONE, History, State, Trial
from lungtune.search import cloning, sampler
from lungtune.search.sampler import Suggestion

MAX_LOST = 3
"""Largest number of worker deaths of a trial without a new report; one more ends it as FAIL(lost)."""

MAX_FAILURES = 5
"""Number of failed trials in a row that stops the search: without a report in between of a trial that did not fail.
Trials that diverged, duplicates and trials ended by the scheduler neither count nor reset."""

MAX_DIVERGED = 20
"""Number of diverged trials in a row that stops the search."""

MAX_FAULTS = 3
"""Number of faults of the machine without a report in between that stops the search; a full disk stops it at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """A trial to train, from its newest checkpoint if it has one.

    Attributes:
        number: of the trial.
        params: all parameters by name.
        seed: of the trial.
        known: passes up to which the journal has its reports.
        lost: number of deaths of its worker since its last report.
        segment: number of its perturbations; its checkpoints lie in ``Study.checkpoints(number, segment)``.
    """

    number: int
    params: Mapping[str, Any]
    seed: int
    known: float
    lost: int = 0
    segment: int = 0

    @classmethod
    def of(cls, trial: Trial) -> Assignment:
        """Return what is left to train of a trial."""
        return cls(trial.number, trial.params, trial.seed, trial.fidelity, trial.lost, trial.segment)


class TrialController:
    """Assigns trials, decides on their reports, writes the journal.

    The state is rebuilt from the journal: a new controller on the same study continues after a crash, with unfinished
    trials first, then paused ones to resume, then new ones.

    Args:
        study: acquired by this process.
        space: of the study.
        seed: of the study; trial ``n`` is seeded with ``seed + n``.
        suggest: returns a trial's configuration, see ``sampler.suggest``; its number leaves out clones.
    """

    def __init__(
        self, study: Study, space: SearchSpace, seed: int, suggest: Callable[..., Suggestion] = sampler.suggest
    ) -> None:
        self.study = study
        self.space = space
        self.seed = seed
        self.suggest = suggest
        self.history = study.history()
        self.faults = 0
        self.running: set[int] = set()
        self._stop_reason = ""
        self.watchers: list[Callable[[Mapping[str, Any]], object]] = []
        self._lock = threading.RLock()
        self._begun: dict[frozenset[tuple[str, Any]], list[int]] = {}
        """Trials by the configuration they began with, those numbered below ``_indexed``."""
        self._indexed = 0
        self._replay()
        self.unfinished = self._to_continue()

    def _to_continue(self) -> list[int]:
        """Return the trials that were cut off; with a scheduler of Ray Tune, those it had paused as well."""
        states = (State.RUNNING, State.PAUSED) if isinstance(self.scheduler, TuneScheduler) else (State.RUNNING,)
        return [trial.number for trial in self.history.of(*states)]

    def _replay(self) -> None:
        """Replay all reports in a new scheduler; apply a decision that a crash kept out of the journal."""
        self.scheduler = schedulers.create(self.space.scheduler, self.space.fidelity, self.space.objective)
        for number, report in self.history.order:
            trial = self.history.trials[number]
            decision = self._decide(trial.as_of(report) if trial.segment else trial, report.fidelity)
            last = report is trial.reports[-1] and report.segment == trial.segment
            carried_out = trial.state is not State.RUNNING or report.fidelity < trial.paused + TOLERANCE
            if last and not carried_out:
                self._carry_out(decision, trial)

    def _decide(self, trial: Trial, fidelity: float, decision: Decision | None = None) -> Decision:
        recorded = self.scheduler.record(trial, fidelity)
        if isinstance(self.scheduler, TuneScheduler):
            stop = recorded is Decision.STOP or fidelity >= self.space.fidelity.max - TOLERANCE
            return Decision.STOP if stop else decision or recorded
        decision = recorded
        if fidelity >= self.space.fidelity.max - TOLERANCE:
            return Decision.STOP
        # the reference configuration is never stopped
        return Decision.CONTINUE if trial.origin == "start" else decision

    def _carry_out(self, decision: Decision, trial: Trial) -> None:
        if decision is Decision.PAUSE:
            self.running.discard(trial.number)
            self._write("pause", trial=trial.number, fidelity=trial.fidelity)
        elif decision is Decision.STOP and trial.fidelity >= self.space.fidelity.max - TOLERANCE:
            self._end(trial.number, State.COMPLETE)
        elif decision is Decision.STOP:
            self._end(trial.number, State.PRUNED, reason=self.space.scheduler.name)

    def _write(self, event: str, **fields: Any) -> None:
        entry = self.study.append(event, **fields)
        self.history.apply(entry)
        for watcher in self.watchers:
            try:
                watcher(entry)
            except (OSError, ValueError) as error:  # closed pipe, full disk: display errors must not stop a search
                log.debug("a watcher failed: %s", error)

    def _end(self, number: int, state: State, reason: str = "", message: str = "", **extra: Any) -> None:
        self.running.discard(number)
        self._write("end", trial=number, state=state.value, reason=reason, message=message, **extra)
        if state is State.FAIL:
            failed, diverged = _failed_in_a_row(self.history)
            last = message.strip()[-300:]
            if failed >= MAX_FAILURES:
                self.request_stop(f"{failed} trials failed without a report in between; the last: {last}")
            elif diverged >= MAX_DIVERGED:
                self.request_stop(f"{diverged} trials diverged without a report in between; the last: {last}")

    @property
    def stop_reason(self) -> str:
        """Reason of the stop request; empty if there is none."""
        return self._stop_reason

    def request_stop(self, reason: str) -> None:
        """Stop the search: no further trial is assigned. The first reason is kept. Safe in signal handlers."""
        self._stop_reason = self._stop_reason or reason

    @property
    def finished(self) -> bool:
        """True if the target number of trials has ended and none is unfinished or paused."""
        left = self.unfinished or self.running or self.history.of(State.PAUSED)
        return not left and len(self.history.trials) >= self.history.target

    def next(self) -> Assignment | None:
        """Return the next trial to train.

        None if none is left (``finished``), if the search is stopping, or if the next one depends on running trials:
        call again after the next report.
        """
        with self._lock:
            while not self.stop_reason:
                trial = self._next_trial()
                if trial is None:
                    return None
                if self._hopeless(trial) or self._duplicate(trial):
                    continue
                self.running.add(trial.number)
                self._write("start", trial=trial.number, attempt=trial.lost + 1, fidelity=trial.fidelity)
                return Assignment.of(trial)
            return None

    def _next_trial(self) -> Trial | None:
        """Return an unfinished trial, else a paused one to resume, else a new one, else one of the last paused ones."""
        trials = self.history.trials
        if self.unfinished:
            return trials[self.unfinished.pop(0)]
        number = self.scheduler.promotable(trials)
        if number is None and len(trials) < self.history.target:
            return self._new_trial()
        if number is None and not self.running and not isinstance(self.scheduler, TuneScheduler):
            number = self.scheduler.promotable(trials, last=True)
            if number is None:
                self._end_paused(self.space.scheduler.name)
        return None if number is None else trials[number]

    def _end_paused(self, reason: str) -> None:
        for trial in self.history.of(State.PAUSED):
            self._end(trial.number, State.PRUNED, reason=reason)

    def _new_trial(self) -> Trial:
        number = len(self.history.trials)
        # clones take no turn of the sampler
        suggestion = self.suggest(self.space, self.history, self.seed, number - self.history.clones)
        self._write(
            "trial",
            trial=number,
            params=suggestion.params,
            sampled=suggestion.sampled,
            distributions=suggestion.distributions,
            seed=self.seed + number,
            origin=suggestion.origin,
            sampler_attrs=suggestion.attrs,
        )
        return self.history.trials[number]

    def _duplicate(self, trial: Trial) -> bool:
        """End a trial whose configuration was finished or paused before with the results in the journal."""
        if trial.reports or trial.origin == CLONE or len(trial.lineage) > 1:
            return False
        for other in self._equal(trial):
            if other.segment or len(other.lineage) > 1:  # its score is not that of its parameters from scratch
                continue
            if other.state in (State.COMPLETE, State.PRUNED, State.PAUSED) and other.duplicate_of is None:
                state = State.COMPLETE if other.state is State.COMPLETE else State.PRUNED
                self._end(trial.number, state, reason="duplicate", duplicate_of=other.number)
                return True
        return False

    def _equal(self, trial: Trial) -> list[Trial]:
        """Return the trials that began with the same configuration as ``trial``, which did itself."""
        trials = self.history.trials
        for number in range(self._indexed, len(trials)):
            self._begun.setdefault(self._identity(trials[number].as_begun()), []).append(number)
        self._indexed = len(trials)
        return [trials[number] for number in self._begun.get(self._identity(trial), ())]

    def _identity(self, trial: Trial) -> frozenset[tuple[str, Any]]:
        acting = synthetic.canonicalize(self.space.acting(trial.params))
        plain = (str, int, float, type(None))
        return frozenset((key, each if isinstance(each, plain) else repr(each)) for key, each in acting.items())

    def _hopeless(self, trial: Trial) -> bool:
        if trial.lost <= MAX_LOST:
            return False
        message = f"its host died {trial.lost} times without a report in between"
        self._end(trial.number, State.FAIL, reason="lost", message=message)
        return True

    def report(self, number: int, outcome: Mapping[str, Any], decision: Decision | None = None) -> bool:
        """Process a trial's report; return True if it continues on its worker.

        Args:
            number: of the trial.
            outcome: ``fidelity`` (passes), ``samples``, ``metrics`` {name: number}, ``checkpoint``; or ``failure``
                {reason, message} when the trial raised. A reason of ``machine.REASONS`` is not the trial's fault: it
                trains on from its newest checkpoint.
            decision: of the backend's own scheduler; None where this controller's decides.
        """
        with self._lock:
            trial = self.history.trials[number]
            if trial.state is not State.RUNNING:
                return False
            failure = outcome.get("failure")
            if failure and failure["reason"] in machine.REASONS:
                self._machine_failed(number, failure["reason"], failure["message"])
                return True
            if failure:
                self._end(number, State.FAIL, reason=failure["reason"], message=failure["message"])
                return False
            if outcome["fidelity"] <= trial.fidelity + TOLERANCE:  # trained again after a lost checkpoint
                if trial.fidelity < self.space.fidelity.max - TOLERANCE:
                    return True
                self._carry_out(Decision.STOP, trial)
                return False
            metrics, problem, reason = self._checked(outcome["metrics"])
            if problem:
                self._end(number, State.FAIL, reason=reason, message=problem)
                return False
            self._write(
                "report",
                trial=number,
                fidelity=outcome["fidelity"],
                samples=outcome["samples"],
                metrics=metrics,
                checkpoint=outcome["checkpoint"],
                seconds=outcome.get("seconds"),
            )
            self.faults = 0
            decision = self._decide(trial, outcome["fidelity"], decision)
            self._carry_out(decision, trial)
            return decision is Decision.CONTINUE

    def resume(self, number: int) -> Assignment:
        """Record that the backend's own scheduler resumed a paused trial; return what to train."""
        with self._lock:
            trial = self.history.trials[number]
            if trial.state is State.PAUSED:
                self.running.add(number)
                self._write("start", trial=number, attempt=trial.lost + 1, fidelity=trial.fidelity)
            return Assignment.of(trial)

    def end(self, number: int) -> None:
        """Record that the backend's own scheduler ended a trial that was paused, or had not begun."""
        with self._lock:
            if self.history.trials[number].state in (State.PAUSED, State.RUNNING):
                self._end(number, State.PRUNED, reason=self.space.scheduler.name)

    def perturb(
        self, number: int, donor: int, donor_fidelity: float, params: Mapping[str, Any], checkpoint: str | None
    ) -> Assignment:
        """Record that a trial goes on from another one's checkpoint with other parameters; return what to train.

        The checkpoint's state belongs into ``Study.checkpoints(number, assignment.segment)``
        (``engine.report_files.inherit``) before it is trained.

        Args:
            number: the trial that is replaced.
            donor: number of the trial whose checkpoint it takes.
            donor_fidelity: passes at the checkpoint.
            params: every parameter from now on.
            checkpoint: its path relative to the study; None where it is not kept.

        Raises:
            ValueError: the trial has ended, there is no such donor, or ``params`` lack a parameter or have another.
        """
        with self._lock:
            trial = self.history.trials[number]
            if trial.state not in (State.RUNNING, State.PAUSED):
                raise ValueError(f"trial {number} must be running or paused to be perturbed, but is {trial.state}")
            if donor not in self.history.trials:
                raise ValueError(f"the donor must be a trial of the study, but there is no trial {donor}")
            if params.keys() != trial.params.keys():
                wrong = ", ".join(sorted(params.keys() ^ trial.params.keys()))
                raise ValueError(f"params must hold every parameter of trial {number}, but differ in {wrong}")
            self._write(
                "perturb",
                trial=number,
                donor=donor,
                donor_fidelity=donor_fidelity,
                fidelity=trial.fidelity,
                params=dict(params),
                checkpoint=checkpoint,
            )
            return Assignment.of(trial)

    def _machine_failed(self, number: int, reason: str, message: str) -> None:
        """Record a fault of the machine in a trial; stop the search where a retry is pointless."""
        self._write("lost", trial=number, why=message[:500], fault=reason)
        self.faults += 1
        if reason == machine.DISK:
            self.request_stop(f"a checkpoint could not be written ({message[:300]}); make room, then resume")
        elif self.faults >= MAX_FAULTS:
            self.request_stop(
                f"the machine failed {self.faults} times without a report in between ({message[:300]}); mend that, "
                "then resume"
            )

    def _checked(self, metrics: Mapping[str, Any]) -> tuple[dict[str, float], str, str]:
        """Return the finite metrics, the problem of the report as a sentence, its reason; both empty if valid."""
        wanted = self.space.objective.metric
        if wanted not in metrics:
            return {}, f"a report must hold '{wanted}', but holds {', '.join(map(str, metrics)) or 'nothing'}", "report"
        clean: dict[str, float] = {}
        for name, value in metrics.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                kind = type(value).__name__
                return {}, f"every metric must be a plain number, but '{name}' is {value!r:.80} ({kind})", "report"
            if math.isfinite(value):
                clean[str(name)] = float(value)
            elif name in (wanted, "loss"):
                return {}, f"'{name}' became {value}", "nan"
        return clean, "", ""

    def note(self, event: str, **fields: Any) -> None:
        """Write an informational event to the journal."""
        with self._lock:
            self._write(event, **fields)

    def take_requests(self) -> None:
        """Add the trials that users asked for while the search runs (``cloning.ask``); they are trained next."""
        for request in cloning.pending(self.study):
            with self._lock:
                number = cloning.take(self.study, self.history, self.space, request, self._write)
                if number is None:
                    continue
                if not cloning.place(self.study, request, number):
                    message = "the checkpoint that it was to go on from could not be put in place"
                    self._end(number, State.FAIL, reason="error", message=message)
                elif self.history.trials[number].state is State.RUNNING and number not in {
                    *self.unfinished,
                    *self.running,
                }:
                    self.unfinished.append(number)

    def lost(self, number: int, why: str) -> None:
        """Record that a trial's worker died; it is retried from its last valid checkpoint."""
        with self._lock:
            if self.history.trials[number].state is State.RUNNING:
                self._write("lost", trial=number, why=why[:500])

    def requeue(self) -> None:
        """Put the running trials back in the queue after all workers were lost."""
        with self._lock:
            self.running.clear()
            self._replay()
            self.unfinished = self._to_continue()

    def retry_or_give_up(self, number: int, why: str) -> None:
        """Queue a trial whose worker died; FAIL(lost) after more than ``MAX_LOST`` deaths without a report.

        One that is paused is queued too where a scheduler of Tune resumes trials: Tune no longer has it.
        """
        with self._lock:
            trial = self.history.trials[number]
            if trial.state is State.PAUSED and isinstance(self.scheduler, TuneScheduler):
                self.unfinished += [number] if number not in self.unfinished else []
            if trial.state is not State.RUNNING:
                return
            self.lost(number, why)
            self.running.discard(number)
            if not self._hopeless(trial):
                self.unfinished.append(number)


def _failed_in_a_row(history: History) -> tuple[int, int]:
    """Return how many trials failed, and how many diverged, since the last report of a trial that did not fail.

    A stop that came of failures begins the count anew: the user has seen it, and resumed.
    """
    failed = diverged = 0
    outcomes, trials = history.outcomes, history.trials
    last = (n for n in reversed(range(len(outcomes))) if outcomes[n][0] == "report")
    begin = next((n for n in last if trials[outcomes[n][1]].state is not State.FAIL), 0)
    for kind, number in outcomes[begin:]:
        trial = history.trials[number] if kind != "stop" else None
        if trial is None:
            failed = 0 if failed >= MAX_FAILURES else failed
            diverged = 0 if diverged >= MAX_DIVERGED else diverged
        elif trial.state is not State.FAIL:
            failed, diverged = (0, 0) if kind == "report" else (failed, diverged)
        elif kind == "end":
            failed, diverged = failed + (trial.reason != "nan"), diverged + (trial.reason == "nan")
    return failed, diverged
