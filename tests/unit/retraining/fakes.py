"""Fake family, session and data without a model: predictions scatter around a skill set by a parameter."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from lungtune.core.family import Family
from lungtune.core.params import param
from lungtune.core.recipe import Provenance, fingerprint
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.trial import Report
from lungtune.data import dataset
from lungtune.data.dataset import Part

CLASSES = ("normal", "viral")
FIDELITY = Fidelity(max=1.0, min=0.5, eta=2)


@dataclass(frozen=True)
class Base:
    """No model."""

    image_size: int = param(8, low=8, high=64, help="side")


@dataclass(frozen=True)
class Params:
    """Skill of the fake model."""

    skill: float = param(0.8, low=0.0, high=1.0, help="share of the cases that are right; mean Dice")
    lr: float = param(1e-3, low=1e-6, high=1.0, help="learning rate")


class FakeFamily(Family):
    """A family of given tasks."""

    summary = "no model"
    packs = False
    ablation = {"skill": 0.0}  # noqa: RUF012
    Base = Base
    Params = Params

    def __init__(self, *tasks: Any) -> None:
        self.tasks = tasks

    def check(self, base: Any) -> None:
        """Nothing is missing."""

    def miniature(self, folder: Any) -> Base:
        """Return the only base."""
        return Base()

    def backbone(self, base: Any, classes: Any) -> Any:
        """Fail."""
        raise AssertionError("no model is opened")

    def export(self, base: Any, params: Any, classes: Any, adapter: Any, folder: Any) -> None:
        """Write a file."""
        (folder / "weights.txt").write_text(str(params.skill))


def part(name: str, cases: int = 60) -> Part:
    """Cases of two a patient; of four the first has no mask."""
    labels = np.arange(cases) % 2
    masks = np.zeros((cases, 1, 8, 8), np.uint8)
    has = np.arange(cases) % 4 > 0
    masks[has, :, 2:6, 2:6] = 255
    image = np.full((cases, 1, 8, 8), 200, np.uint8)
    names = [f"{name}{k}" for k in range(cases)]
    patients = [f"{name}{k // 2}" for k in range(cases)]
    return Part.of(image=image, label=labels, mask=masks, known={"mask": has}, patients=patients, case_ids=names)


def inspection() -> Any:
    """File properties of the data."""
    paths = {name: [f"{name}{k}.png" for k in range(60)] for name in ("train", "validation", "test")}
    import pandas as pd

    every = [path for each in paths.values() for path in each]
    facts = pd.DataFrame({"width": 64, "height": 64, "mode": "L", "type": "PNG"}, index=every)
    parts = {name: SimpleNamespace(path=each, label=list(CLASSES) * 30) for name, each in paths.items()}
    manifest = SimpleNamespace(parts=parts, classes=CLASSES, has=lambda kind, part=None: True, hash="0" * 64)
    return SimpleNamespace(source="fake", manifest=manifest, facts=facts)


class FakeSession:
    """Trains in one step, and predicts by skill and seed."""

    def __init__(self, family: Any, base: Any, data: Any, fidelity: Any, objective: Any, slots: int = 1) -> None:
        self.family, self.dataset, self.fidelity = family, data, fidelity
        self.evaluators = {task.name: task.evaluator(family, base, data, None) for task in family.tasks}
        self.pack = SimpleNamespace(capacity=slots, adapter=lambda slot: {"slot": slot}, samples=lambda slot: 0)
        self.runs: dict[int, Any] = {}

    def start(self, number: int, params: Any, seed: int, folder: Any, known: float = 0.0) -> None:
        """Add a trial."""
        self.runs[number] = SimpleNamespace(slot=number, params=params, seed=seed, fidelity=known)

    def step(self) -> list[tuple[int, Report]]:
        """Return the last report of every trial."""
        return [(number, self._report(number)) for number in list(self.runs)]

    def leave(self, number: int) -> None:
        """Remove a trial."""
        del self.runs[number]

    def predict(self, number: int, part: Part) -> dict[str, dict[str, np.ndarray]]:
        """Return every task's predictions."""
        run = self.runs[number]
        rng = np.random.default_rng([run.seed, len(part), int(1000 * run.params["skill"])])
        right = np.where(rng.random(len(part)) < run.params["skill"], part["label"], 1 - part["label"])
        dice = np.clip(rng.normal(run.params["skill"], 0.05, len(part)), 0.01, 1)
        dice = np.where(part.has("mask"), dice, np.nan)
        predicted = {"probabilities": 0.1 + 0.8 * np.eye(2)[right], "dice": dice, "iou": dice / (2 - dice)}
        return {task.name: {name: predicted[name] for name in task.predicted} for task in self.family.tasks}

    def _report(self, number: int) -> Report:
        predicted, metrics = self.predict(number, self.dataset.validation), {}
        for task in self.family.tasks:
            scores = self.evaluators[task.name].scores(self.dataset.validation, predicted[task.name])
            metrics |= {self.family.metric_key(task, name): value for name, value in scores.items()}
        return Report(self.fidelity.max, 60, metrics)


def install(monkeypatch: Any) -> list[dict[str, Any]]:
    """Replace data and session; return the keywords of every opening of the data."""
    opened: list[dict[str, Any]] = []

    def load(found: Any, fields: Any, size: int, *, test: bool = False, bank: Any = None) -> Any:
        opened.append({"test": test, "fields": [field.name for field in fields]})
        parts = {name: part(name) for name in ("train", "validation")}
        return dataset.Dataset(CLASSES, **parts, test=part("test") if test else None, manifest=found.manifest,
                               audit=None, source="fake")  # fmt: skip

    def module(name: str, **content: Any) -> None:
        built = ModuleType(name)
        vars(built).update(content)
        monkeypatch.setitem(sys.modules, name, built)

    monkeypatch.setattr(dataset, "load", load)
    module("lungtune.engine.session", Session=FakeSession)
    module("lungtune.engine.capacity", set_reproducible_threads=lambda: None)
    return opened


def recipe(family: FakeFamily, objective: str | None = None, **params: Any) -> tuple[SearchSpace, Provenance]:
    """Return a recipe of the family with its provenance."""
    space = SearchSpace(
        name="fake", family="fake", summary="", profile="full", objective=family.objective(objective), seed=3,
        sampler="random", trials=1, fidelity=FIDELITY, base={"image_size": 8}, axes={}, start=(),
        fixed={"skill": 0.8, "lr": 1e-3, **params}, data="fake",
    )  # fmt: skip
    mark = fingerprint(space, 1.0, "0" * 64)
    return space, Provenance("study", "id", 0, 1.0, "0" * 64, 0, 0.8, mark)
