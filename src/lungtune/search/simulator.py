"""Runs schedulers and samplers against learning curves that are known already: no training, no Ray cluster.

What is measured is how many epochs a search needs until any of its trials reaches the target of a table.
"""

from __future__ import annotations

import heapq
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from lungtune.core.fidelity import Fidelity
from lungtune.core.scheduler import Scheduler
from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, Objective
from lungtune.search import sampler
from lungtune.search.conductor import Conductor

TOP = 0.01
"""The target of a table is the final value of its best 1 % of configurations."""


class Curves(Protocol):
    """What is searched: axes, and a learning curve for every point."""

    axes: Mapping[str, BaseDistribution]
    epochs: int
    target: float
    mode: str

    def take(self, params: Mapping[str, Any], tried: set[int]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the configuration to try for a suggestion (``tried`` is the run's own memory), and its curve."""


@dataclass
class Table:
    """A finite table: a suggestion stands for the nearest row not tried yet; when all were, all may be again."""

    axes: Mapping[str, BaseDistribution]
    rows: list[dict[str, Any]]
    curves: np.ndarray
    mode: str = "max"
    epochs: int = field(init=False)
    target: float = field(init=False)

    def __post_init__(self) -> None:
        self.epochs = self.curves.shape[1]
        self.target = target(self.curves[:, -1], self.mode)
        self._places = np.array([self._place(row) for row in self.rows])

    def _place(self, params: Mapping[str, Any]) -> list[float]:
        """Where a configuration lies: every axis from 0 to 1, a choice as one axis for each of its values."""
        place: list[float] = []
        for name, axis in self.axes.items():
            value = params[name]
            if isinstance(axis, CategoricalDistribution):
                place += [0.5 * (value == choice) for choice in axis.choices]
                continue
            scale = math.log if axis.log else float  # type: ignore[attr-defined]
            low, high = scale(axis.low), scale(axis.high)  # type: ignore[attr-defined]
            place.append((scale(value) - low) / (high - low))
        return place

    def take(self, params: Mapping[str, Any], tried: set[int]) -> tuple[dict[str, Any], Sequence[float]]:
        """Return the nearest row not in ``tried``, and add it there."""
        if len(tried) == len(self.rows):
            tried.clear()
        distance = ((self._places - np.array(self._place(params))) ** 2).sum(1)
        distance[list(tried)] = math.inf
        row = int(distance.argmin())
        tried.add(row)
        return self.rows[row], self.curves[row]


def target(final: np.ndarray, mode: str) -> float:
    """Return the value that the best 1 % of final values reach (of the best one when there are fewer than 100)."""
    ordered = np.sort(final[np.isfinite(final)])
    ordered = ordered[::-1] if mode == "max" else ordered
    return float(ordered[max(1, math.floor(TOP * len(ordered))) - 1])


class Method(Protocol):
    """A search: asked for a trial when a worker is free, shown every epoch of it."""

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """Return a trial's key, its configuration and how many of its epochs are known; None to wait."""

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Take the value after ``epoch`` epochs; return whether the trial goes on."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: epochs spent by all trials together, and whether the target was reached with them."""

    epochs: int
    reached: bool
    trials: int


def run(curves: Curves, method: Callable[[Callable[..., Any]], Method], budget: int, workers: int = 1) -> Outcome:
    """Run one search until it reaches the target or has spent ``budget`` epochs.

    Args:
        curves: the table.
        method: builds a search around ``choose(params) -> params``, which it calls with every suggestion to learn
            which configuration is tried for it.
        budget: epochs, of all trials together.
        workers: how many trials run at a time; every epoch takes each of them equally long.
    """
    tried: set[int] = set()
    known: dict[str, Sequence[float]] = {}
    repeat = count()

    def choose(params: Mapping[str, Any]) -> dict[str, Any]:
        taken, curve = curves.take(params, tried)
        taken = {**taken, "_run": str(next(repeat))}
        known[taken["_run"]] = curve
        return taken

    search = method(choose)
    busy: list[tuple[int, int, int, Sequence[float], int]] = []
    spent, order, now = 0, count(), 0
    while spent < budget:
        while len(busy) < workers and (given := search.next()) is not None:
            key, params, epoch = given
            heapq.heappush(busy, (now + 1, next(order), key, known[params["_run"]], epoch))
        if not busy:
            break
        now, _, key, curve, epoch = heapq.heappop(busy)
        value = float(curve[epoch])
        spent += 1
        if value >= curves.target if curves.mode == "max" else value <= curves.target:
            return Outcome(spent, True, len(known))
        if search.report(key, epoch + 1, value) and epoch + 1 < curves.epochs:
            heapq.heappush(busy, (now + 1, next(order), key, curve, epoch + 1))
    return Outcome(spent, False, len(known))


class _Memory:
    """A study that is not on disk."""

    def __init__(self) -> None:
        self._time = count()
        self.folder = None

    def history(self) -> History:
        return History()

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        return {"event": event, "time": next(self._time), **fields}


class Asker:
    """Suggests what :func:`sampler.suggest` suggests, building each trial's record once instead of every time."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, optuna.trial.FrozenTrial | None]] = {}

    def suggest(self, space: SearchSpace, history: History, seed: int, number: int) -> dict[str, Any]:
        """Return the sampled parameters of trial ``number``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = sampler.rebuild(space, History(), sampler.make(space, seed, number))
            if space.sampler != "random":
                storage = study._storage
                storage._studies[study._study_id].trials = self._records(space, history)  # type: ignore[attr-defined]
            return dict(study.ask(dict(space.axes)).params)

    def _records(self, space: SearchSpace, history: History) -> list[optuna.trial.FrozenTrial]:
        for number, trial in history.trials.items():
            version = (trial.state, len(trial.reports))
            if number not in self._made or self._made[number][0] != version:
                self._made[number] = (version, sampler.frozen(space, trial))
        records = [record for _, record in self._made.values() if record is not None]
        for number, record in enumerate(records):
            record.number = record._trial_id = number
        return records


class Lungtune:
    """The product's own conductor, ASHA and sampler."""

    def __init__(
        self,
        curves: Curves,
        choose: Callable[..., Any],
        seed: int,
        scheduler: Scheduler | None = None,
        kind: str = "tpe",
        eta: float = 3.0,
    ) -> None:
        fidelity = Fidelity(max=curves.epochs, min=1, eta=eta, report=1)
        self.space = SearchSpace(
            "simulated", "", "", "", Objective("value", curves.mode), kind, 10**9, fidelity, {}, {}, curves.axes, (),
            scheduler=scheduler or Scheduler(),
        )  # fmt: skip
        self.conductor = Conductor(_Memory(), self.space, seed, self._suggest)  # type: ignore[arg-type]
        self.conductor.history.target = self.space.trials
        self._choose, self._asker = choose, Asker()

    def _suggest(self, space: SearchSpace, history: History, seed: int, number: int) -> sampler.Suggestion:
        params = self._choose(self._asker.suggest(space, history, seed, number))
        sampled = {name: params[name] for name in space.axes}
        return sampler.Suggestion(params, sampled, {}, "sampler", {})

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """Ask the conductor."""
        given = self.conductor.next()
        return None if given is None else (given.number, given.params, int(given.known))

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Show the conductor; a curve that breaks off is a training that diverged."""
        outcome = {"fidelity": float(epoch), "samples": epoch, "metrics": {"value": value}, "checkpoint": None}
        return self.conductor.report(key, outcome)


class StockRay:
    """Ray Tune's own ``ASHAScheduler`` and ``OptunaSearch`` as they come: eta 4, grace 1, TPE."""

    def __init__(self, curves: Curves, choose: Callable[..., Any], seed: int, eta: float = 4.0) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        mode = {"metric": "value", "mode": curves.mode}
        self.scheduler = AsyncHyperBandScheduler(max_t=curves.epochs, reduction_factor=eta, **mode)
        self.searcher = OptunaSearch(dict(curves.axes), seed=seed, **mode)
        self._choose, self._trials = choose, list[_RayTrial]()

    def next(self) -> tuple[int, Mapping[str, Any], int]:
        """Suggest, then tell Optuna which configuration is tried for it."""
        trial = _RayTrial(len(self._trials))
        self._trials.append(trial)
        params = self._choose(self.searcher.suggest(trial.trial_id))
        asked = self.searcher._ot_trials[trial.trial_id]
        record = self.searcher._ot_study._storage._get_trial(asked._trial_id)
        record.params = {name: params[name] for name in record.distributions}
        self.scheduler.on_trial_add(None, trial)
        return trial.number, params, 0

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Ask Ray's scheduler, and tell Ray's searcher what Ray Tune tells it."""
        trial = self._trials[key]
        result = {"training_iteration": epoch, "value": value}
        goes_on = self.scheduler.on_trial_result(None, trial, result) == "CONTINUE"
        self.searcher.on_trial_result(trial.trial_id, result)
        if not goes_on:
            self.scheduler.on_trial_complete(None, trial, result)
            self.searcher.on_trial_complete(trial.trial_id, result)
        return goes_on


class _RayTrial:
    def __init__(self, number: int) -> None:
        self.number = number
        self.trial_id = str(number)


class ShortPass:
    """One epoch each for 50 random configurations, the best 3 to the end, and again."""

    BATCH, KEPT = 50, 3

    def __init__(self, curves: Curves, choose: Callable[..., Any], seed: int) -> None:
        self._curves, self._choose = curves, choose
        self._random = Lungtune(curves, choose, seed, Scheduler("none"), "random")
        self._params: list[Mapping[str, Any]] = []
        self._first: dict[int, float] = {}
        self._kept: list[int] = []

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """The best of the batch, or a new configuration."""
        if self._kept:
            key = self._kept.pop(0)
            return key, self._params[key], 1
        key = len(self._params)
        asked = Asker().suggest(self._random.space, History(), self._random.conductor.seed, key)
        self._params.append(self._choose(asked))
        return key, self._params[key], 0

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Stop after the first epoch, and never again."""
        if epoch > 1:
            return True
        self._first[key] = value
        if len(self._first) == self.BATCH:
            ranked = sorted((k for k in self._first if math.isfinite(self._first[k])), key=self._first.__getitem__)
            ranked = ranked[::-1] if self._curves.mode == "max" else ranked
            self._kept, self._first = ranked[: self.KEPT], {}
        return False
