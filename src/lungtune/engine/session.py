"""Training session: one backbone, one data set, one pack. Used by search and retraining."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungtune.core import environment
from lungtune.core import params as parameters
from lungtune.core.family import Family
from lungtune.core.fields import Field
from lungtune.core.io import stage
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.task import Evaluator
from lungtune.core.trial import Objective, Report
from lungtune.data.dataset import Dataset, Part
from lungtune.engine import capacity, checkpoint, memory, report_files
from lungtune.engine.capacity import Capacity
from lungtune.engine.evaluation import Evaluation
from lungtune.engine.pack import Pack
from lungtune.errors import TrialError

log = logging.getLogger(__name__)

KEPT = 3
"""Number of sessions without a trial that stay open."""


def device() -> str:
    """Return the device trials train on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Run:
    """A trial in training."""

    slot: int
    folder: Path
    fidelity: float = 0.0
    pending: list[Report | Exception] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    trained: int = 0
    seconds: float = 0.0
    best: tuple[float, str] = (math.nan, "")
    verified: bool = False
    predicted: tuple[int, dict[str, dict[str, np.ndarray]]] | None = None
    """Samples seen at the last report, and the predictions on validation then."""


class Session:
    """Holds a backbone and a data set, and trains up to ``slots`` trials together over them.

    Args:
        family: the model family.
        base: its ``Base``, equal for all trials of the session.
        dataset: training, synthetic and validation cases at ``base.image_size``.
        fidelity: when trials report and how long their schedule is.
        objective: decides which checkpoint is the best and is kept.
        slots: most trials at a time.
    """

    def __init__(
        self,
        family: Family[Any, Any],
        base: Any,
        dataset: Dataset,
        fidelity: Fidelity,
        objective: Objective,
        slots: int = 1,
    ) -> None:
        self.family = family
        self.base = base
        self.dataset = dataset
        self.fidelity = fidelity
        self.objective = objective
        torch.set_num_threads(min(torch.get_num_threads(), environment.cores()))  # torch does not see a cgroup's limit
        with stage("Loading the model"):
            self.pack = Pack(
                family,
                base,
                dataset.classes,
                dataset.train,
                synthetic=dataset.synthetic,
                capacity=slots,
                device=device(),
            )
        self.evaluation = Evaluation(family, base, dataset, self.pack.device, objective)
        self.runs: dict[int, Run] = {}
        self._reports = fidelity.reports
        self._cases = len(dataset.train)

    def start(self, number: int, params: Mapping[str, Any], seed: int, folder: Path, known: float = 0.0) -> None:
        """Add a trial, from its newest sound checkpoint in ``folder`` if there is one.

        If the checkpoint's report is later than ``known`` passes, the caller's latest, the next :meth:`step` returns
        it again.
        """
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        values = parameters.build(self.family.Params, params)
        horizon = round(self.fidelity.max * self._cases)
        latest = report_files.latest(folder)
        state = None
        pending: list[Report | Exception] = []
        done, best = 0.0, (math.nan, "")
        if latest is not None:
            path, state, meta = latest
            done, best = meta["fidelity"], tuple(meta["best"])
            if done > known:
                pending.append(Report(done, meta["samples"], meta["metrics"], str(path)))
        slot = self.pack.join(values, seed=seed, horizon=horizon, state=state)
        self.runs[number] = Run(slot, folder, done, pending, best=best)

    def leave(self, number: int) -> None:
        """Remove a trial; its checkpoints stay."""
        self.pack.leave(self.runs.pop(number).slot)

    def fit(self, cap: int, configurations: Sequence[Mapping[str, Any]]) -> Capacity:
        """Measure the fastest number of concurrent trials, at most ``cap``, on this device; no trial may be open."""
        typical = [parameters.build(self.family.Params, params) for params in configurations]
        self.pack.capacity = cap
        measured = capacity.measure(self.pack, typical, cap)
        self.pack.capacity = measured.slots
        return measured

    def step(self, numbers: Collection[int] | None = None) -> list[tuple[int, Report | Exception]]:
        """Train trials (default all) by one optimiser step; return the reports that came due and trials that failed."""
        runs = {n: run for n, run in self.runs.items() if numbers is None or n in numbers}
        if not any(run.pending for run in runs.values()):
            self._train(runs)
        due = [(number, report) for number, run in runs.items() for report in run.pending]
        for run in runs.values():
            run.pending = []
        return due

    def _train(self, runs: Mapping[int, Run]) -> None:
        """Take a step. Due reports are stored in their runs, so that another trial's exception can't lose them."""
        began = time.perf_counter()
        before = {number: self.pack.samples(run.slot) for number, run in runs.items()}
        losses = self.pack.step({run.slot for run in runs.values()})
        seconds = time.perf_counter() - began
        for number, run in runs.items():
            samples, loss = self.pack.samples(run.slot), losses[run.slot]
            run.trained += samples - before[number]
            run.seconds += seconds
            run.losses.append(loss)
            problem = self._unreached(run)
            if problem is not None:
                run.pending.append(problem)
            elif not math.isfinite(loss):
                run.pending.append(TrialError("nan", f"the training loss became {loss} after {samples} samples"))
            elif samples >= round(self._next(run) * self._cases):
                run.pending.append(self._reported(run, samples))

    def _unreached(self, run: Run) -> TrialError | None:
        """Return the error of a trial whose trained parameters get no gradient in its first steps of this session."""
        if not run.verified:
            try:
                run.verified = self.pack.verify(run.slot)
            except TrialError as error:
                return error
        return None

    def until_report(self, progress: Callable[[int], None] | None = None) -> list[tuple[int, Report | Exception]]:
        """Step until something is due; ``progress`` receives the number of optimiser steps."""
        while True:
            due = self.step()
            if progress is not None:
                progress(1)
            if due:
                return due

    def _next(self, run: Run) -> float:
        """The next fidelity at which a trial reports."""
        return next((level for level in self._reports if level > run.fidelity + 1e-9), self.fidelity.max)

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """The evaluator of each task, by its name."""
        return self.evaluation.evaluators

    def predict(self, number: int, part: Part) -> dict[str, dict[str, np.ndarray]]:
        """Return the predictions of trial ``number`` on a part of the data, by task and name."""
        run = self.runs[number]
        if run.predicted and part is self.dataset.validation and run.predicted[0] == self.pack.samples(run.slot):
            return run.predicted[1]  # for a generator that is as costly as a report
        return self.evaluation.predict(self.pack, run.slot, part)

    def references(self, params: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return the reference scores on validation; no trial may be open."""
        return self.evaluation.references(self.pack, parameters.build(self.family.Params, params))

    def _reported(self, run: Run, samples: int) -> Report | Exception:
        """Return a trial's report, or what it raised, such as a full disk's error: it concerns no other trial."""
        try:
            return self._report(run, samples)
        except Exception as error:
            return error

    def _report(self, run: Run, samples: int) -> Report | TrialError:
        # a large batch may pass several levels at once
        run.fidelity = max(level for level in self._reports if round(level * self._cases) <= samples)
        if not self.pack.finite(run.slot):
            return TrialError("nan", f"the trained weights became infinite or NaN within {samples} samples")
        part = self.dataset.validation
        predicted = self.evaluation.predict(self.pack, run.slot, part)
        run.predicted = samples, predicted
        try:
            scores = self.evaluation.scores(part, predicted)
        except TrialError as error:
            return error
        scores |= {
            "loss": sum(run.losses) / len(run.losses),
            "samples_per_second": run.trained / run.seconds,
            "peak_memory_mb": memory.peak(),
        }
        run.losses, run.trained, run.seconds = [], 0, 0.0
        path = run.folder / checkpoint.name(samples)
        score = scores.get(self.objective.metric, math.nan)
        if self.objective.better(score, run.best[0]):
            run.best = (score, path.name)
        kept = self.evaluation.kept(part, predicted)
        meta = {"fidelity": run.fidelity, "samples": samples, "metrics": scores, "best": list(run.best)}
        report_files.write(path, self.pack.state(run.slot), kept, self.evaluation.picture(predicted), meta)
        return Report(run.fidelity, samples, scores, str(path))


class Sessions:
    """Trains trials of any family and base: one session for each, opened when a trial first needs it.

    Args:
        space: what is searched.
        family: returns a family by its name.
        data: opens the data set with these fields, at an image size.
        slots: most trials at a time of one session.
    """

    def __init__(
        self,
        space: SearchSpace,
        family: Callable[[str], Family[Any, Any]],
        data: Callable[[Sequence[Field], int], Dataset],
        slots: int,
    ) -> None:
        self.space = space
        self._family = family
        self._data = data
        self._slots = slots
        self._open: dict[str, Session] = {}

    def of(self, params: Mapping[str, Any]) -> Session:
        """Return the session of trials with these parameters (as in the journal)."""
        configuration = self.space.configuration(params)
        return self.on(configuration.family, configuration.base)

    def on(self, family: str, values: Mapping[str, Any]) -> Session:
        """Return the session of a family's base, a mapping of plain values."""
        key = repr((family, sorted(values.items())))
        if key not in self._open:
            idle = [other for other, session in self._open.items() if not session.runs]
            for other in idle[: max(0, len(self._open) + 1 - KEPT)]:  # a backbone is large, opening one takes seconds
                del self._open[other]
            instance = self._family(family)
            base = parameters.build(instance.Base, values)
            data = self._data(instance.fields, base.image_size)
            self._open[key] = Session(
                instance, base, data, self.space.fidelity, self.space.objective, slots=self._slots
            )
        self._open[key] = self._open.pop(key)  # the last one used comes last
        return self._open[key]

    @property
    def runs(self) -> dict[int, Run]:
        """The trials in training."""
        return {number: run for session in self._open.values() for number, run in session.runs.items()}

    def start(self, number: int, params: Mapping[str, Any], seed: int, folder: Path, known: float = 0.0) -> None:
        """Add a trial to its session; see ``Session.start``."""
        own = self.space.configuration(params).params
        self.of(params).start(number, own, seed, folder, known)

    def leave(self, number: int) -> None:
        """Remove a trial."""
        next(session for session in self._open.values() if number in session.runs).leave(number)

    def step(self, numbers: Collection[int]) -> list[tuple[int, Report | Exception]]:
        """Train trials by one step, session after session, until something is due; see ``Session.step``.

        Due reports are returned at once, because an exception of a later session would lose them.
        """
        mine = [(s, s.runs.keys() & set(numbers)) for s in list(self._open.values())]
        return next((due for session, some in mine if some and (due := session.step(some))), [])
