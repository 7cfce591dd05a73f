"""Host with simulated training: real Ray, real journal, real checkpoints, no waiting.

A trial's ``fault`` parameter names the fault, which occurs once: its occurrence is recorded in the study's folder.

``OPENINGS`` in the environment of Ray says what happens when a host opens its device: words by commas, for the first
opening of the study, the second and so on, the last for all further ones: ``ok``, ``raise``, ``kill``, ``stuck``,
``dies`` (in its first step).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from lungtune.core.io import write_atomic
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import Objective, Report
from lungtune.data.manifest import PARTS, Entries, Manifest
from lungtune.search.backend import Backend
from lungtune.search.backends.ray_hosts import RayHosts
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.backends.ray_tune.backend import RayTune
from lungtune.search.backends.ray_tune.host import TuneHost
from lungtune.search.device_session import DeviceSession

FIDELITY = Fidelity(max=9, min=1, eta=3)


def space(trials: int, faults: tuple[str, ...] = (), seconds: float = 0.0, **changes: Any) -> SearchSpace:
    """A space of one quality axis; the first trials carry ``faults`` as start points."""
    values: dict[str, Any] = {
        "name": "simulated",
        "family": "simulated",
        "summary": "",
        "profile": "full",
        "objective": Objective("macro_f1"),
        "sampler": "tpe",
        "trials": trials,
        "fidelity": FIDELITY,
        "base": {},
        "fixed": {"fault": "none", "seconds": seconds},
        "axes": {"quality": FloatDistribution(0.0, 1.0), "kind": CategoricalDistribution(["a", "b"])},
        "start": tuple({"quality": 0.5 + 0.01 * n, "kind": "a", "fault": fault} for n, fault in enumerate(faults)),
    }
    return SearchSpace(**(values | changes))


def manifest(seed: int = 0) -> Manifest:
    """Return a split of three cases, one a part."""
    parts = {part: Entries((part,), ("a",), (part,), (f"{n:040x}",), (part,)) for n, part in enumerate(PARTS)}
    return Manifest(("a", "b"), parts, excluded={}, seed=seed, folds=5, fold=0, source="none", notes=())


def begin(folder: Path, made: SearchSpace, seed: int = 0, study: Study | None = None) -> Study:
    """Begin a study in ``folder``, or this one, and hold it."""
    study = study or Study(folder)
    study.acquire()
    split = manifest()
    split.save(study.split_path)
    data = {"source": "none", "hash": split.hash, "classes": ["a", "b"], "counts": {"train": 100, "validation": 10}}
    study.begin(made, data=data, seed=seed, about={"command": "", "versions": {}, "git": {}})
    study.append("baselines", constant={"macro_f1": 0.1})
    return study


def score(params: dict[str, Any], fidelity: float) -> float:
    """A learning curve that keeps the order of qualities."""
    return params["quality"] * fidelity / (fidelity + 1.0)


class SimulatedSession:
    """Stand-in for a training session; its checkpoints are files with the report inside."""

    def __init__(self, study: Study, dies: bool = False) -> None:
        self.study, self.dies = study, dies
        self.runs: dict[int, dict[str, Any]] = {}

    def start(self, number: int, params: dict[str, Any], seed: int, folder: Path, known: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        saved = sorted(folder.glob("*.json"))
        done = json.loads(saved[-1].read_text())["fidelity"] if saved else 0.0
        with open(folder / "starts", "a") as file:
            file.write(f"{done:g}\n")
        self.runs[number] = {"params": params, "folder": folder, "done": done, "emit": done > known}

    def leave(self, number: int) -> None:
        del self.runs[number]

    def step(self, numbers: Collection[int]) -> list[tuple[int, Report]]:
        """One trial reports at a time, in the order of arrival."""
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        number = next(number for number in self.runs if number in numbers)
        run = self.runs.pop(number)
        self.runs[number] = run  # the next turn is another's
        params, folder = run["params"], run["folder"]
        if not run["emit"]:
            time.sleep(params["seconds"])
            run["done"] = next(level for level in FIDELITY.reports if level > run["done"])
        run["emit"] = False
        fidelity = run["done"]
        metrics: dict[str, Any] = {"macro_f1": score(params, fidelity), "loss": 1.0 - score(params, fidelity)}
        path = folder / f"{fidelity:09.4f}.json"
        if fidelity >= 2:
            self._fault(params["fault"], folder, metrics)
        write_atomic(path, json.dumps({"fidelity": fidelity}).encode())
        if params["fault"] == "kill-after-checkpoint" and fidelity == 2 and _first_time(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        return [(number, Report(fidelity, round(fidelity * 100), metrics, str(path)))]

    def _fault(self, fault: str, folder: Path, metrics: dict[str, Any]) -> None:
        if fault == "nan":
            metrics["macro_f1"] = float("nan")
        elif fault == "inf":
            metrics["macro_f1"] = float("inf")
        elif fault == "missing":
            del metrics["macro_f1"]
        elif fault == "string":
            metrics["macro_f1"] = "0.9"
        elif fault == "tensor":
            import numpy as np

            metrics["extra"] = np.zeros((2, 2))
        elif fault == "raise":
            raise ValueError("a mistake in the model's code")
        elif fault == "stuck" and _first_time(folder):
            time.sleep(3600)
        elif (fault == "kill" and _first_time(folder)) or fault == "always-kill":
            os.kill(os.getpid(), signal.SIGKILL)


def _first_time(folder: Path) -> bool:
    try:
        (folder / "fault-done").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _opening(folder: Path) -> bool:
    """Do what ``OPENINGS`` says of this opening of a device; return True if its first step kills the process."""
    words = os.environ.get("OPENINGS", "ok").split(",")
    number = 0
    while True:
        try:
            (folder / f"opening-{number}").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    word = words[min(number, len(words) - 1)]
    if word == "raise":
        raise RuntimeError("CUDA error: no device")
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "stuck":
        time.sleep(3600)
    return word == "dies"


class SimulatedHost(PackHost):
    """The real host around a simulated session."""

    def preload(self) -> None:
        """A simulated session needs no library."""

    def open_session(self) -> DeviceSession:
        dies = _opening(self._study.folder)
        slots = SearchSpace.from_dict(self._study.history().study["space"]).slots
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
        about = {"node": "", "device": gpu, "slots": max(1, slots), "why": "", "rates": []}
        return DeviceSession(SimulatedSession(self._study, dies), about)


class SimulatedTuneHost(SimulatedHost, TuneHost):
    """The same for Ray Tune's trials."""


def backend(engine: str = "hosts") -> Backend:
    """Return the backend of an engine, with simulated hosts."""
    return RayTune(SimulatedTuneHost) if engine == "tune" else RayHosts(SimulatedHost)
