"""Discovery of all model families: a new file in ``trainables/`` is tested without a line added here.

``tests/contract/own/`` is a user's folder of kinds no shipped family has: volumes, colour, image with text,
segmentation alone, several labels a case. They pass the same tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungtune import catalog
from lungtune.core import synthetic
from lungtune.core.family import Family
from lungtune.core.fields import UNCERTAIN, Field, Labels
from lungtune.core.params import ParamSpec, specs
from lungtune.data.dataset import Part
from lungtune.engine.pack import Pack

HOME = Path(__file__).parent / "own"
"""A user's folder: families, spaces and a task of one's own."""

CLASSES = ("normal", "bacterial", "viral")
ON_LABELS = ("clip_lora", "resnet50_full", "vit_b16_head")
"""Families that pass all tests on several labels a case too, one of each kind."""
COUNTS = (12, 7, 3)
HORIZON = 200
WORDS = ("clear lungs", "dense opacity", "fine lines")


@pytest.fixture(scope="session", autouse=True)
def own_families() -> Any:
    """Add the miniatures to the catalog as a user's families."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LUNGTUNE_PATH", str(HOME))
    yield
    patch.undo()


def names() -> list[str]:
    """Return all families, shipped ones and miniatures."""
    patch = pytest.MonkeyPatch()
    patch.setenv("LUNGTUNE_PATH", str(HOME))
    try:
        return catalog.families()
    finally:
        patch.undo()


NAMES = names()


@dataclass(frozen=True)
class Sample:
    """A family at its smallest, with cases to train on.

    Attributes:
        name: of the family.
        family: the instance.
        base: what ``miniature`` returned.
        part: 22 cases sorted by class, with the fields of the family; each class has its own brightness, over noise.
            One case lacks a mask, one its text, some their labels.
        synthetic: 36 further cases, twelve a class, made as the real ones; None where cases have no single label.
    """

    name: str
    family: Family[Any, Any]
    base: Any
    part: Part
    synthetic: Part | None
    classes: Sequence[str] = CLASSES

    def pack(self, capacity: int = 8) -> Pack:
        """Return a new pack on this family's cases."""
        return Pack(self.family, self.base, self.classes, self.part, synthetic=self.synthetic, capacity=capacity)

    @property
    def draws(self) -> bool:
        """True if it generates images."""
        return any(task.name == "generation" for task in self.family.tasks)

    @property
    def default(self) -> Any:
        """Default parameters, with a rate that shows in a few steps."""
        drawn = {"sampler_steps": 3, "caption_dropout": 0.4, "snr_cap": 0.5}
        quick = drawn if self.draws else {}
        return replace(self.family.Params(), lr=1e-2, batch_size=4, **quick)

    @property
    def tolerance(self) -> dict[str, float]:
        """Tolerance of a trial's predictions across pack compositions: a generated pixel may round to its neighbour."""
        return {"atol": 1.01 / 255 if self.draws else 2e-4, "rtol": 0}

    def predicted(self, pack: Pack, slot: int, part: Part | None = None, batch_size: int | None = None) -> torch.Tensor:
        """Return a trial's predictions, one row a case; or pixels of one drawn image per class."""
        if self.draws:
            return pack.draw(slot, range(len(CLASSES)), [5, 6, 7], stride=8).float() / 255
        predictions = pack.predict(part or self.part, [slot], batch_size=batch_size)[slot]
        return torch.cat(
            [value.flatten(1) if value.ndim > 1 else value[:, None] for value in predictions.values()], 1
        ).nan_to_num(-1)

    def values(self, name: str, params: Any = None) -> list[Any]:
        """Return the value of one parameter in ``params``, by default the default, and other moderate ones."""
        return _values(specs(self.family.Params)[name], getattr(params or self.default, name))

    def switched_on(self, name: str) -> Any:
        """Return parameters with which that of ``name`` acts within three steps: what it depends on is switched on."""
        spec, params = specs(self.family.Params)[name], self.default
        if name in synthetic.NAMES[1:]:
            return replace(params, synthetic_ratio=1.0)
        if spec.only_with:
            params = replace(params, **dict([spec.only_with]))
        if name.startswith("lr_"):  # after the warm-up; it is longer than three steps
            return replace(params, warmup=0.0, lr_step=0.02)
        return replace(params, warmup=0.1) if name == "warmup_start" else params

    def variants(self, count: int) -> list[Any]:
        """Return parameter sets that differ from one another in everything."""
        result = []
        for i in range(count):
            changes = {}
            for step, field in enumerate(fields(self.family.Params)):
                values = self.values(field.name)
                changes[field.name] = values[(i * (1 + step % 2) + step) % len(values)]
            result.append(replace(self.default, **changes))
        return result


def _values(spec: ParamSpec, default: Any) -> list[Any]:
    if spec.choices:
        noted = [spec.noted([0.3, 1.2, 0.7])] if spec.notation else []
        return [default, *(c for c in spec.choices if c != default), *noted]
    if spec.type is bool:
        return [default, not default]
    low = -float("inf") if spec.low is None else spec.low
    high = float("inf") if spec.high is None else spec.high
    half = default // 2 if spec.type is int else default / 2
    step = 1 if spec.type is int else 0.25  # for defaults of zero
    guesses = (default * 2, half) if default else (step, 2 * step)
    return [default, *(g for g in guesses if low <= g <= high and g != default)]


def part_of(wanted: tuple[Field, ...], size: int, labels: np.ndarray, seed: int, whole: bool = False) -> Part:
    """Return cases of these fields, whose brightness, words and numbers determine the class.

    Args:
        wanted: the fields.
        size: side of images, volumes and masks.
        labels: ``(N,)`` classes.
        seed: of the noise.
        whole: every case has every field; no masks.
    """
    random = np.random.default_rng(seed)
    count, result, known = len(labels), {}, {}
    rank = 3 if any(field.kind == "volume" for field in wanted) else 2
    edge = size // 4
    inside = (slice(None), slice(None), *(slice(edge, -edge) for _ in range(rank)))
    for field in wanted:
        if field.pixels:
            shape = (count, field.channels, *(size,) * rank)
            pixels = random.integers(0, 120, shape) + 60 * labels.reshape(-1, *(1,) * (rank + 1))
            pixels = pixels.astype(np.uint8)
            if not whole:
                pixels[inside] //= 2
            result[field.name] = pixels
        elif field.kind == "mask" and not whole:
            known[field.name] = np.arange(count) != 1
            mask = np.zeros((count, 1, *(size,) * rank), np.uint8)
            mask[inside] = 255
            mask[1] = 0
            result[field.name] = mask
        elif field.kind == "label":
            result[field.name] = labels.astype(np.int64)
        elif field.kind == "labels":
            values = np.eye(len(CLASSES), dtype=np.float32)[labels]
            values[:, 0] = labels > 0  # two labels at a time
            values[::5, 2] = np.nan
            values[1::3, 1] = UNCERTAIN
            result[field.name] = values
        elif field.kind == "text":
            known[field.name] = np.arange(count) != 3
            result[field.name] = np.array([WORDS[k] if i != 3 else "" for i, k in enumerate(labels)])
        elif field.kind == "table":
            result[field.name] = (labels[:, None] + random.normal(size=(count, 2))).astype(np.float32)
    return Part.of(known=known, **result)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)


def on_labels(name: str, folder: Path) -> Sample:
    """Return a family of classifiers as it trains on data of several labels a case."""
    built = catalog.family(name, "multilabel")
    base = built.miniature(folder)
    part = part_of(built.fields, base.image_size, np.repeat(np.arange(len(CLASSES)), COUNTS), 0)
    return Sample(name, built, base, part, None, Labels(CLASSES))


@pytest.fixture(scope="session", params=[*NAMES, *(f"{name} on labels" for name in ON_LABELS)])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, own_families: None) -> Sample:
    """Every family in turn, some of them a second time on several labels a case."""
    name, _, labels = request.param.partition(" ")
    if labels:
        return on_labels(name, tmp_path_factory.mktemp(name))
    built = catalog.family(name)
    base = built.miniature(tmp_path_factory.mktemp(name))
    part = part_of(built.fields, base.image_size, np.repeat(np.arange(len(CLASSES)), COUNTS), 0)
    further = np.repeat(np.arange(len(CLASSES)), 12)
    synthetic = part_of(built.fields, base.image_size, further, 1, whole=True) if "label" in part else None
    return Sample(name, built, base, part, synthetic)


@pytest.fixture
def classifier(family: Sample) -> Sample:
    """Every family that predicts one class a case."""
    if all(task.name != "classification" for task in family.family.tasks):
        pytest.skip(f"{family.name} has no task classification: one class a case")
    return family


@pytest.fixture
def predictor(family: Sample) -> Sample:
    """Every family that predicts something of each case."""
    if family.draws:
        pytest.skip(f"{family.name} draws images and predicts nothing of a case")
    return family


@pytest.fixture
def generator(family: Sample) -> Sample:
    """Every family that draws."""
    if not family.draws:
        pytest.skip(f"{family.name} draws no images")
    return family
