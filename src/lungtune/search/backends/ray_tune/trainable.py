"""Ray Tune's ``Trainable`` of a study's space: a step trains a trial to its next report.

A trial is trained by the pack host of its process: together with the host's other trials, or alone in an actor of its
own. Its checkpoints are those of ``engine.report_files``.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import ray
from ray import tune

from lungtune.core.io import write_atomic
from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.synonyms import meant
from lungtune.errors import SpaceError, TrialError
from lungtune.search.backends.ray_tune import domains
from lungtune.search.backends.ray_tune import host as hosts

ASSIGNED = "lungtune"
"""Entry of a trial's config and results with what the search's controller knows of it: ``number``, ``seed``, ``known``,
``segment``. Without it the trial is stock Tune's own."""

SEED = "seed"
"""Entry of a config with the trial's seed; else it follows from the study's seed and the configuration."""

_RECORD = "lungtune.json"


class LungtuneTrainable(tune.Trainable):
    """Base of the classes that ``lungtune.tune.trainable`` and the Tune backend create.

    Attributes:
        study: folder of the study: space, data split and synthetic images.
        own: folders of the user's own families.
    """

    study: ClassVar[str] = ""
    own: ClassVar[tuple[str, ...]] = ()

    def setup(self, config: dict[str, Any]) -> None:
        """See ``tune.Trainable``.

        Raises:
            SpaceError: the configuration names a parameter that the space has not, or a value it does not accept.
        """
        folder = Study(Path(self.study))
        event = folder.history().study
        self._space = SearchSpace.from_dict(event["space"])
        assigned = config.pop(ASSIGNED, None)
        self._stock = assigned is None
        if assigned is None:
            params = configuration(self._space, config)
            own = zlib.crc32(json.dumps(params, sort_keys=True, default=repr).encode())
            self._number: Any = self.trial_id
            self._folder = folder.folder / "checkpoints" / str(self._number)
            seed = _kept_seed(self._folder, int(config.get(SEED, event["seed"] + own)))
            segment = max((_segment(path) for path in self._folder.glob("segment-*")), default=0)
            self._folder = self._folder / f"segment-{segment}" if segment else self._folder
            known = -1.0
        else:
            params, seed, known = dict(config), assigned["seed"], assigned["known"]
            self._number = assigned["number"]
            self._folder = folder.checkpoints(self._number, assigned["segment"])
        self._params, self._seed, self._known = params, seed, known
        self._donor = {"donor": "", "donor_fidelity": 0.0, "donor_checkpoint": ""}
        self._fidelity = 0.0
        self._fresh = True
        cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1.0)
        self._host = hosts.pack_host(self.study, hosts.threads_here(cpus), self.own)
        self._host.ready()

    def step(self) -> dict[str, Any]:
        """Train to the next report; return metrics, ``fidelity`` (passes), ``samples``, ``seed`` and ``checkpoint``.

        After a scheduler such as PBT gave it another trial's checkpoint: ``segment`` (how often), ``donor`` (trial id),
        ``donor_fidelity`` and ``donor_checkpoint``.
        """
        assignment = {
            "number": self._number,
            "params": self._params,
            "seed": self._seed,
            "known": self._known,
            "folder": str(self._folder),
        }
        outcome = self._host.train(assignment, self._fresh)
        self._host.owners[self._number] = self
        self._fresh = False
        assigned = {} if self._stock else {ASSIGNED: outcome}
        failure = outcome.get("failure")
        if failure and self._stock:
            raise TrialError(failure["reason"], failure["message"])
        if failure:
            return {**assigned, self._space.objective.metric: float("nan")}
        self._known = self._fidelity = outcome["fidelity"]
        reports = self._space.fidelity.reports
        self._iteration = sum(level < self._fidelity - TOLERANCE for level in reports)  # train() adds one
        metrics = {name: value for name, value in outcome["metrics"].items() if isinstance(value, (int, float))}
        if not self._stock:  # Tune ends as a whole without it
            metrics.setdefault(self._space.objective.metric, float("nan"))
        return {
            **metrics,
            **assigned,
            "fidelity": self._fidelity,
            "samples": outcome["samples"],
            "seed": self._seed,
            "study": self.study,
            "segment": _segment(self._folder),
            **self._donor,
            "checkpoint": str(Path(self.study) / outcome["checkpoint"]),
            "done": self._stock and self._fidelity >= self._space.fidelity.max - TOLERANCE,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Copy the newest checkpoint; of a trial of lungtune's own search a reference to it is enough."""
        newest = max(self._folder.glob("*.safetensors"), default=None)
        if self._stock and newest is not None:
            shutil.copyfile(newest, Path(checkpoint_dir) / newest.name)
        file = newest.relative_to(Path(self.study)) if newest else ""
        record = {"trial": self._number, "fidelity": self._fidelity, "checkpoint": str(file), **self._donor}
        (Path(checkpoint_dir) / _RECORD).write_text(json.dumps(record))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]  # as Ray documents it
        """Go on from a checkpoint; from another trial's, in a folder of its own (``segment-1``, ...)."""
        if not self._stock:  # its folder and segment are in the journal
            return
        record = json.loads((Path(checkpoint_dir) / _RECORD).read_text())
        self._known = self._fidelity = record["fidelity"]
        file = Path(record["checkpoint"])
        if Path(self.study) / file.parent == self._folder:
            self._donor = {name: record[name] for name in self._donor}
        elif file.name:
            self._donor = dict(zip(self._donor, (record["trial"], record["fidelity"], str(file)), strict=True))
            root = Study(Path(self.study)).folder / "checkpoints" / str(self._number)
            segment = 1 + max((_segment(path) for path in root.glob("segment-*")), default=0)
            self._folder = root / f"segment-{segment}"
            from lungtune.engine import report_files  # imports torch

            report_files.inherit(Path(checkpoint_dir) / file.name, self._folder)
            self._fresh = True

    def cleanup(self) -> None:
        """Leave the pack."""
        if self._host.owners.get(self._number) is self:
            del self._host.owners[self._number]
            self._host.leave(self._number)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial (``TuneConfig(reuse_actors=True)``)."""
        self.cleanup()
        self.setup(dict(new_config))
        return True


def _segment(folder: Path) -> int:
    """Return k of ``segment-k``, else 0."""
    return int(folder.name.removeprefix("segment-")) if folder.name.startswith("segment-") else 0


def _kept_seed(folder: Path, seed: int) -> int:
    """Return the seed a trial began with; a scheduler that changes its parameters does not change it."""
    file = folder / "seed"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, str(seed).encode())
    return int(file.read_text())


def configuration(space: SearchSpace, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter of a trial: those of ``config``, else the fixed ones and, of axes, :func:`_default`.

    Raises:
        SpaceError: ``config`` names a parameter that the space has not.
    """
    known = {**space.base, **space.fixed, **space.axes}
    for name in config:
        if name not in known and name != SEED:
            raise SpaceError(f"'{name}' is not a parameter of {space.name}.{meant(name, known)}")
    defaults = {name: _default(space, name) for name in space.axes}
    return {**space.fixed, **defaults, **{name: _plain(value) for name, value in config.items() if name != SEED}}


def _default(space: SearchSpace, name: str) -> Any:
    """Return the value of the first start point if the axis holds it (some are of another optimiser), else its middle.

    Of choices, the first.
    """
    axis, start = space.axes[name], {**space.base, **(space.start[0] if space.start else {})}
    if name in start and domains.holds(axis, start[name]):
        return start[name]
    return domains.middle(axis)


def _plain(value: Any) -> Any:
    """Return a plain number for one of numpy."""
    return value.item() if hasattr(value, "item") else value


def subclass(name: str, study: Path, own: list[Path]) -> type[LungtuneTrainable]:
    """Return the trainable of a study.

    Args:
        name: of the class, and so of Tune's trials.
        study: the study's folder.
        own: folders of the user's own families.
    """
    fields = {"study": str(study.resolve()), "own": tuple(map(str, own)), "__doc__": f"Trains trials of {study.name}."}
    return type(name, (LungtuneTrainable,), fields)
