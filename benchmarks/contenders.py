"""The searches that ``simulator.py`` runs: lungtune's own code, Ray Tune's own, and a simple one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import optuna

from lungtune import optuna_study
from lungtune.core.resource import Fidelity
from lungtune.core.scheduler import SchedulerConfig
from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, Objective
from lungtune.search import sampler
from lungtune.search.controller import TrialController
from simulator import Curves


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
            study = optuna_study.for_sampler(space, History(), sampler.make(space, seed, number))
            if space.sampler != "random":
                storage = study._storage
                storage._studies[study._study_id].trials = self._records(space, history)  # type: ignore[attr-defined]
            return dict(study.ask(dict(space.axes)).params)

    def _records(self, space: SearchSpace, history: History) -> list[optuna.trial.FrozenTrial]:
        at = optuna_study.level(space, history)
        for number, trial in history.trials.items():
            version = (trial.state, len(trial.reports), at)
            if number not in self._made or self._made[number][0] != version:
                self._made[number] = (version, optuna_study.frozen(space, trial, at))
        records = [record for _, record in self._made.values() if record is not None]
        for number, record in enumerate(records):
            record.number = record._trial_id = number
        return records


class Lungtune:
    """lungtune's own controller, scheduler and sampler."""

    def __init__(
        self,
        curves: Curves,
        choose: Callable[..., Any],
        seed: int,
        scheduler: SchedulerConfig | None = None,
        kind: str = "tpe",
        eta: float = 3.0,
        first: float = 2.0,
    ) -> None:
        fidelity = Fidelity(max=curves.epochs, min=first, eta=eta, report=1)
        self.space = SearchSpace(
            "simulated", "", "", "", Objective("value", curves.mode), kind, 10**9, fidelity, {}, {}, curves.axes, (),
            scheduler=scheduler or SchedulerConfig(),
        )  # fmt: skip
        self.controller = TrialController(_Memory(), self.space, seed, self._suggest)  # type: ignore[arg-type]
        self.controller.history.target = self.space.trials
        self._choose, self._asker = choose, Asker()

    def _suggest(self, space: SearchSpace, history: History, seed: int, number: int) -> sampler.Suggestion:
        params = self._choose(self._asker.suggest(space, history, seed, number))
        sampled = {name: params[name] for name in space.axes}
        origin = "random" if sampler.is_random(space, number) else "sampler"
        return sampler.Suggestion(params, sampled, {}, origin, {})

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """Ask the controller."""
        given = self.controller.next()
        return None if given is None else (given.number, given.params, int(given.known))

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Report to the controller; a curve that breaks off is a training that diverged."""
        outcome = {"fidelity": float(epoch), "samples": epoch, "metrics": {"value": value}, "checkpoint": None}
        return self.controller.report(key, outcome)


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
        """Suggest, then pass Optuna the configuration that is tried for it."""
        trial = _RayTrial(len(self._trials))
        self._trials.append(trial)
        params = self._choose(self.searcher.suggest(trial.trial_id))
        asked = self.searcher._ot_trials[trial.trial_id]
        record = self.searcher._ot_study._storage._get_trial(asked._trial_id)
        record.params = {name: params[name] for name in record.distributions}
        self.scheduler.on_trial_add(None, trial)
        return trial.number, params, 0

    def report(self, key: int, epoch: int, value: float) -> bool:
        """Pass the result to Ray's scheduler and searcher as Ray Tune does."""
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
        self._random = Lungtune(curves, choose, seed, SchedulerConfig("none"), "random")
        self._params: list[Mapping[str, Any]] = []
        self._first: dict[int, float] = {}
        self._kept: list[int] = []

    def next(self) -> tuple[int, Mapping[str, Any], int] | None:
        """The best of the batch, or a new configuration."""
        if self._kept:
            key = self._kept.pop(0)
            return key, self._params[key], 1
        key = len(self._params)
        asked = Asker().suggest(self._random.space, History(), self._random.controller.seed, key)
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
