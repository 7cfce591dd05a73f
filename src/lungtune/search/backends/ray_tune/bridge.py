"""Tune's searcher and scheduler of a lungtune search: both carry events to the tuner's loop and its answers back."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, HyperBandForBOHB, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from lungtune.core.resource import TOLERANCE
from lungtune.core.scheduler import Decision
from lungtune.core.space import SearchSpace
from lungtune.search.backend import Event, Reported, TrialEnded, TrialLost, TrialPerturbed, TrialResumed
from lungtune.search.backends.ray_tune import inner, virtual
from lungtune.search.backends.ray_tune.trainable import ASSIGNED

log = logging.getLogger(__name__)

_OUTCOME = f"{ASSIGNED}/"
_DECISIONS = {
    TrialScheduler.CONTINUE: Decision.CONTINUE,
    TrialScheduler.PAUSE: Decision.PAUSE,
    TrialScheduler.NOOP: Decision.CONTINUE,  # the scheduler acts on the trial itself
    TrialScheduler.STOP: Decision.STOP,
}


class Loop(Protocol):
    """The tuner's loop, as Tune's thread sees it."""

    def tell(self, event: Event) -> None:
        """Pass an event on."""

    def ask(self, event: Reported | TrialResumed | TrialPerturbed) -> Decision:
        """Pass an event on; wait until it is in the journal, and for what becomes of its trial."""

    def new_trial(self) -> Mapping[str, Any] | None:
        """Return the config of a submitted trial that Tune does not have; None if there is none now."""

    def resumed_trial(self) -> Mapping[str, Any] | None:
        """Return the assignment of a submitted trial that Tune has paused; None if there is none now."""

    space: SearchSpace
    assigned: dict[int, dict[str, Any]]
    """Entry ``ASSIGNED`` of each trial as the journal has it now, by number."""

    @property
    def closing(self) -> bool:
        """True once no further trial is to be trained."""


class Submitted(Searcher):
    """Suggests what the tuner's loop submits."""

    def __init__(self, loop: Loop, metric: str, mode: str, model: Any = None) -> None:
        super().__init__(metric=metric, mode=mode)
        self._loop, self._model = loop, model
        self._numbers: dict[str, int] = {}

    def __reduce__(self) -> Any:
        """Tune saves its searcher and scheduler to resume from; a search resumes from its journal instead."""
        return Searcher, ()

    def __deepcopy__(self, memo: Any) -> Submitted:
        return self

    def suggest(self, trial_id: str) -> Any:
        """See ``Searcher``."""
        if self._loop.closing:
            return Searcher.FINISHED
        config = self._loop.new_trial()
        if config is not None:
            self._numbers[trial_id] = config[ASSIGNED]["number"]
        return config

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """See ``Searcher``; the journal holds the result."""
        self._forward("on_trial_complete", trial_id)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """See ``Searcher``."""
        self._forward("on_trial_result", trial_id, result)

    def on_pause(self, trial_id: str) -> None:
        """Called by ``HyperBandForBOHB``."""
        self._forward("on_pause", trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Called by ``HyperBandForBOHB``."""
        self._forward("on_unpause", trial_id)

    def _forward(self, method: str, trial_id: str, *args: Any) -> None:
        if self._model is not None and trial_id in self._numbers:
            inner.forward(self._model, method, self._numbers[trial_id], *args)


class Bridge(TrialScheduler):
    """Tune's scheduler of a lungtune search.

    Args:
        loop: the tuner's loop; its controller decides where ``decider`` is None.
        decider: a scheduler of Tune that decides.
        place: returns the host of a trial, see ``virtual.install``.
    """

    def __init__(self, loop: Loop, decider: TrialScheduler | None, place: virtual.Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._loop, self._inner, self._place = loop, decider, place
        self._trials: dict[int, Trial] = {}
        self._begun = False
        self._known: set[Trial] = set()
        """Trials that ``inner`` knows."""

    def __reduce__(self) -> Any:
        """See ``Submitted.__reduce__``."""
        return FIFOScheduler, ()

    def __deepcopy__(self, memo: Any) -> Bridge:
        return self

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """See ``TrialScheduler``."""
        if self._inner is not None:
            self._inner.set_search_properties(metric, mode, **spec)
        return bool(super().set_search_properties(metric, mode, **spec))

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``."""
        if not self._begun:
            self._begun = True
            virtual.install(controller, self._place)
            if self._inner is not None:  # brackets and populations are complete before their first report
                controller.update_max_pending_trials(self._loop.space.trials)
        self._trials[_number(trial)] = trial
        trial.update_resources({"cpu": virtual.CPUS})
        if self._inner is not None:
            self._inner.on_trial_add(_Seen(controller), trial)  # type: ignore[arg-type]
            self._known.add(trial)

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """See ``TrialScheduler``."""
        outcome = _outcome(result)
        before = dict(trial.config)
        verdict = TrialScheduler.CONTINUE
        if self._inner is not None and not self._ends(outcome):
            verdict = self._inner.on_trial_result(self._seen(controller), trial, result)
        decision = _DECISIONS[verdict] if self._inner is not None else None
        answer = self._loop.ask(Reported(_number(trial, before), outcome, decision))
        for number, copy in [(n, t) for n, t in self._trials.items() if t.config[ASSIGNED]["number"] != n]:
            self._perturbed(number, copy)  # with ``synch`` the last report perturbs all trials
        if answer is Decision.STOP or self._inner is None:
            return {
                Decision.CONTINUE: TrialScheduler.CONTINUE,
                Decision.PAUSE: TrialScheduler.PAUSE,
                Decision.STOP: TrialScheduler.STOP,
            }[answer]
        return verdict

    def _ends(self, outcome: Mapping[str, Any]) -> bool:
        """True if a trial ends with its outcome, whatever ``inner`` decides."""
        if "failure" in outcome or outcome["fidelity"] >= self._loop.space.fidelity.max - TOLERANCE:
            return True
        value = outcome["metrics"].get(self._loop.space.objective.metric)
        return not isinstance(value, (int, float)) or not math.isfinite(value)

    def _perturbed(self, number: int, trial: Trial) -> None:
        """Pass on that ``inner`` gave a trial another one's parameters and checkpoint."""
        donor = _number(trial)
        params = {name: value for name, value in trial.config.items() if name != ASSIGNED}
        self._loop.ask(TrialPerturbed(number, donor, params))
        trial.set_config({**params, ASSIGNED: dict(self._loop.assigned[number])})

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """See ``TrialScheduler``."""
        if self._loop.closing:
            return None
        if self._inner is None:
            return self._resumed()
        chosen = self._inner.choose_trial_to_run(self._seen(controller)) or self._stuck()
        if chosen is not None and chosen.status == Trial.PAUSED:
            self._loop.ask(TrialResumed(_number(chosen)))
            chosen.set_config({**chosen.config, ASSIGNED: dict(self._loop.assigned[_number(chosen)])})
        return chosen

    def _seen(self, controller: Any) -> Any:
        """Return the controller as ``inner`` sees it; HyperBand for BOHB calls the searcher."""
        return controller if isinstance(self._inner, HyperBandForBOHB) else _Seen(controller)

    def _stuck(self) -> Trial | None:
        """Return a paused trial of a synchronous population that waits for one that has failed."""
        synch, waiting = getattr(self._inner, "_synch", False), list(self._trials.values())
        if not (synch and waiting and all(trial.status == Trial.PAUSED for trial in waiting)):
            return None
        self._inner._next_perturbation_sync += self._inner._perturbation_interval  # type: ignore[union-attr]
        return waiting[0]

    def _resumed(self) -> Trial | None:
        """Return the paused trial that was submitted, once its pause is complete."""
        assignment = self._loop.resumed_trial()
        if assignment is None:
            return None
        trial = self._trials[assignment["number"]]
        trial.set_config({**trial.config, ASSIGNED: dict(assignment)})
        return trial

    @property
    def busy(self) -> bool:
        """True if Tune has trials that have not ended."""
        return bool(self._trials)

    def has(self, number: int) -> bool:
        """True if Tune has a trial that has not ended."""
        return number in self._trials

    def paused(self, number: int) -> bool:
        """True if Tune has a trial, and paused it."""
        return number in self._trials and self._trials[number].status == Trial.PAUSED

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``."""
        self._forget(controller, trial, "on_trial_error")
        error = trial.get_pickled_error() or trial.get_error() or "its process died"
        self._loop.tell(TrialLost(_number(trial), " ".join(str(error).split())[:500]))

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """See ``TrialScheduler``."""
        self._forget(controller, trial, "on_trial_complete", result)
        if self._inner is not None:  # HyperBand ends trials whose pause is not complete
            self._loop.tell(TrialEnded(_number(trial)))

    def on_trial_remove(self, controller: Any, trial: Trial) -> None:
        """See ``TrialScheduler``."""
        self._forget(controller, trial, "on_trial_remove")
        if not self._loop.closing:
            self._loop.tell(TrialEnded(_number(trial)))

    def _forget(self, controller: Any, trial: Trial, method: str, *args: Any) -> None:
        if self._inner is not None and trial in self._known:
            getattr(self._inner, method)(controller, trial, *args)
        if self._trials.get(_number(trial)) is trial:
            del self._trials[_number(trial)]

    def debug_string(self) -> str:
        """See ``TrialScheduler``."""
        return (self._inner or FIFOScheduler()).debug_string()

    @property
    def supports_buffered_results(self) -> bool:
        """See ``TrialScheduler``."""
        return False


class _Seen:
    """A controller as PBT sees it: without a searcher, which PBT refuses, and without trials that have ended.

    Tune counts failed trials as alive; a synchronous population would wait for them.
    """

    search_alg = None

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._controller, name)

    def get_trials(self) -> list[Trial]:
        """Return the trials that have not ended."""
        return [trial for trial in self._controller.get_trials() if not trial.is_finished()]

    get_live_trials = get_trials


def _number(trial: Trial, config: Mapping[str, Any] | None = None) -> int:
    return int((config or trial.config)[ASSIGNED]["number"])


def _outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``PackHost.train`` returned, from Tune's flattened result."""
    nested: dict[str, Any] = {}
    for name, value in flatten_dict(dict(result)).items():
        head, _, rest = name.removeprefix(_OUTCOME).partition("/")
        if name.startswith(_OUTCOME) and rest:
            nested.setdefault(head, {})[rest] = value
        elif name.startswith(_OUTCOME):
            nested[head] = value
    return nested
