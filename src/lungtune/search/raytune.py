"""Runs a conductor's trials on Ray Tune: Ray places them and keeps their processes, the conductor decides."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the journal and the tracker log
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the conductor checks, and fails one trial only
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # the driver stops the search itself
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")  # Ray's own snapshots are never read
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "100")  # hosts decide when a trial can start
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment, not a copy of it

import ray
from ray import tune
from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from lungtune.errors import StudyError
from lungtune.search.actor import TrialActor
from lungtune.search.conductor import MAX_LOST, Assignment, Conductor
from lungtune.search.host import PackHost
from lungtune.search.hosts import LIGHT, Hosts

log = logging.getLogger(__name__)
for _name in ("ray.tune", "ray.air", "ray.train", "ray._private.authentication"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)  # what they would say is in the journal


def start_ray() -> None:
    """Join the cluster at ``RAY_ADDRESS`` or start a local one."""
    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", include_dashboard=False, object_store_memory=128 * 2**20, **quiet)
            _protect_token()
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"no Ray cluster answers at RAY_ADDRESS={address}" if address else "Ray could not be started"
        raise StudyError(f"{where}: {' '.join(str(error).split())[:300]}. The study is kept: resume it.") from error


def _protect_token() -> None:
    """Ray writes its authentication token readable by all; only its owner needs it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and stat.S_IMODE(token.stat().st_mode) & 0o077:
        token.chmod(0o600)


class _Unsaved:
    """Ray pickles what it is given, for its own restore, which is never used: the journal has it all."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Asker(_Unsaved, Searcher):
    """Hands the conductor's assignments to Ray Tune, each with the host that has room for it."""

    def __init__(self, conductor: Conductor, hosts: Hosts) -> None:
        super().__init__(metric="fidelity", mode="max")
        self.conductor = conductor
        self.hosts = hosts
        self._waiting: Assignment | None = None

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.hosts.poll()
        if self._waiting is None and self.hosts.room():
            self._waiting = self.conductor.next()
        host = self.hosts.place(self._waiting) if self._waiting is not None else None
        if self._waiting is not None and host is not None:
            assignment, self._waiting = self._waiting, None
            return {
                "number": assignment.number,
                "params": dict(assignment.params),
                "seed": assignment.seed,
                "known": assignment.known,
                "host": host,
                "driver": self.hosts.driver,
            }
        return Searcher.FINISHED if self.conductor.finished or self.conductor.stopping else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The conductor knows."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Judge(_Unsaved, FIFOScheduler):
    """Asks the conductor what becomes of a trial after each report."""

    def __init__(self, conductor: Conductor, hosts: Hosts) -> None:
        super().__init__()
        self.conductor = conductor
        self.hosts = hosts

    def on_trial_result(self, tune_controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        goes_on = False
        if "unplaced" in result:
            self.conductor.put_back(number)
        elif "lost" in result:
            self.hosts.dead(trial.config["host"])
            self.conductor.retry_or_give_up(number, result["lost"])
        else:
            goes_on = self.conductor.report(number, _outcome(result))
        if not goes_on:
            self.hosts.free(number)
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


def _outcome(result: Mapping[str, Any]) -> dict[str, Any]:
    """Put together again what Ray Tune flattened."""
    outcome: dict[str, Any] = {
        key: result[key] for key in ("fidelity", "samples", "checkpoint", "seconds") if key in result
    }
    outcome["metrics"] = {k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")}
    if "failure/reason" in result:
        outcome["failure"] = {"reason": result["failure/reason"], "message": result["failure/message"]}
    return outcome


class _Watch(_Unsaved, tune.Callback):
    """Takes note of dead processes and keeps the view alive."""

    def __init__(self, conductor: Conductor, hosts: Hosts, tick: Callable[[], None]) -> None:
        self.conductor = conductor
        self.hosts = hosts
        self.tick = tick

    def on_step_end(self, iteration: int, trials: list[RayTrial], **info: Any) -> None:
        self.hosts.poll()
        self.tick()

    def on_trial_recover(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self.conductor.lost(trial.config["number"], _why(trial))

    def on_trial_error(self, iteration: int, trials: list[RayTrial], trial: RayTrial, **info: Any) -> None:
        self.conductor.retry_or_give_up(trial.config["number"], _why(trial))
        self.hosts.free(trial.config["number"])


class _Stop(_Unsaved, tune.Stopper):
    """Ends the run when the conductor is told to stop."""

    def __init__(self, conductor: Conductor) -> None:
        self.conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self.conductor.stopping)


def _why(trial: RayTrial) -> str:
    """Return what Ray wrote down of a trial's last failure, on one line: the last exception named in it."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        text = ""
    named = list(re.finditer(r"\w+(?:Error|Exception)\b", text))
    return " ".join(text[named[-1].start() :].split())[:500] if named else "its process died"


def run_trials(conductor: Conductor, tick: Callable[[], None], host: type[PackHost] = PackHost) -> None:
    """Run trials until the conductor has no more or is stopping.

    A trial whose host dies goes on from its last checkpoint on another; a light process that dies is replaced by Ray.
    Where Ray Tune itself gives up (its own memory monitor killing a process ends the whole of ``Tuner.fit``), a new run
    takes over from the journal.
    """
    hosts = _hosts(conductor, host)
    without_progress = 0
    while not conductor.finished and not conductor.stopping:
        reports = len(conductor.history.order)
        scratch = tempfile.mkdtemp(prefix="lungtune-ray-")
        try:
            _fit(conductor, hosts, scratch, tick)
        except (RuntimeError, ray.exceptions.RayError, tune.TuneError) as error:
            log.warning("Ray Tune stopped (%s); going on from the journal.", " ".join(str(error).split())[:200])
            for number in sorted(conductor.running):
                conductor.lost(number, " ".join(str(error).split())[:200])
            without_progress = without_progress + 1 if len(conductor.history.order) == reports else 0
            if without_progress > MAX_LOST:
                why = " ".join(str(error).split())[:300]
                raise StudyError(
                    f"Ray Tune stops again and again without a new report: {why}. Mend it, then resume."
                ) from error
            if not ray.is_initialized():
                start_ray()
                hosts = _hosts(conductor, host)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            hosts.clear()
            conductor.requeue()
    hosts.close()


def _hosts(conductor: Conductor, host: type[PackHost]) -> Hosts:
    """Make a host for each GPU of the cluster, or for each core where there is none."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    driver = None if os.environ.get("RAY_ADDRESS") else os.getpid()
    return Hosts(conductor, host, on_gpus=gpus > 0, count=gpus or int(resources.get("CPU", 1)), driver=driver)


def _fit(conductor: Conductor, hosts: Hosts, scratch: str, tick: Callable[[], None]) -> None:
    tuner = tune.Tuner(
        tune.with_resources(TrialActor, {"cpu": LIGHT}),
        tune_config=tune.TuneConfig(
            search_alg=_Asker(conductor, hosts),
            scheduler=_Judge(conductor, hosts),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="run",
            storage_path=scratch,
            callbacks=[_Watch(conductor, hosts, tick)],
            stop=_Stop(conductor),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # hosts write them
            failure_config=tune.FailureConfig(max_failures=MAX_LOST),
            verbose=0,
        ),
    )
    tuner.fit()


def stop_ray() -> None:
    """Leave the cluster, or stop the local one."""
    ray.shutdown()
