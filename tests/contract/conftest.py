"""Finds every model family by itself: a new file in ``trainables/`` is tested without a line added here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lungtune.core import synthetic
from lungtune.core.family import Classifier, Generator, Trainable
from lungtune.core.params import ParamSpec, specs
from lungtune.core.paths import ROOT
from lungtune.engine.pack import Pack
from lungtune.inputs.on_the_fly import Masks

NAMES = sorted(p.stem for p in (ROOT / "trainables").glob("*.py") if not p.stem.startswith("_"))
CLASSES = ("normal", "bacterial", "viral")
COUNTS = (12, 7, 3)
HORIZON = 200


@dataclass(frozen=True)
class Family:
    """A family at its smallest, with images to train on.

    Attributes:
        name: module in ``trainables``.
        trainable: the instance.
        base: what ``miniature`` returned.
        images: uint8 ``(22, S, S)``, sorted by class; each class has its own brightness, over noise.
        labels: int64 ``(22,)``.
        masks: a darker square in each image but one, where the family wants masks.
        synthetic: further images ``(36, S, S)``, twelve a class, made as the real ones.
    """

    name: str
    trainable: Trainable
    base: Any
    images: np.ndarray
    labels: np.ndarray
    masks: Masks | None
    synthetic: Any

    def pack(self, capacity: int = 8) -> Pack:
        """Return a new pack on this family's images."""
        given = {"masks": self.masks, "synthetic": self.synthetic, "capacity": capacity}
        return Pack(self.trainable, self.base, CLASSES, self.images, self.labels, **given)

    @property
    def default(self) -> Any:
        """Default parameters, with a rate that shows in a few steps."""
        drawn = {"sampler_steps": 3, "caption_dropout": 0.4, "snr_cap": 0.5}
        quick = drawn if isinstance(self.trainable, Generator) else {}
        return replace(self.trainable.Params(), lr=1e-2, batch_size=4, **quick)

    @property
    def told_close(self) -> dict[str, float]:
        """How near ``told`` is of the same trial trained in other company: a drawn pixel may round to its neighbour."""
        return {"atol": 1.01 / 255 if isinstance(self.trainable, Generator) else 2e-4, "rtol": 0}

    def told(self, pack: Pack, slot: int) -> torch.Tensor:
        """Return what a trial makes of things: probabilities of all images, or pixels of one it draws of each class."""
        if isinstance(self.trainable, Generator):
            return pack.draw(slot, range(len(CLASSES)), [5, 6, 7], stride=8).float() / 255
        return pack.predict(self.images)[slot]

    def values(self, name: str, params: Any = None) -> list[Any]:
        """Return the value of one parameter in ``params``, by default the default, and other moderate ones."""
        return _values(specs(self.trainable.Params)[name], getattr(params or self.default, name))

    def switched_on(self, name: str) -> Any:
        """Return parameters with which that of ``name`` acts within three steps: what it depends on is switched on."""
        spec, params = specs(self.trainable.Params)[name], self.default
        if name in synthetic.NAMES[1:]:
            return replace(params, synthetic_ratio=1.0)
        if spec.only_with:
            params = replace(params, **dict([spec.only_with]))
        if name.startswith("lr_"):  # after the warm-up; it is longer than three steps
            return replace(params, warmup=0.0, lr_step=0.02)
        return replace(params, warmup=0.1) if name == "warmup_start" else params

    def variants(self, count: int) -> list[Any]:
        """Return parameter sets that differ from one another in everything."""
        found = []
        for i in range(count):
            changes = {}
            for step, field in enumerate(fields(self.trainable.Params)):
                values = self.values(field.name)
                changes[field.name] = values[(i * (1 + step % 2) + step) % len(values)]
            found.append(replace(self.default, **changes))
        return found


def _values(spec: ParamSpec, default: Any) -> list[Any]:
    if spec.choices:
        return [default, *(c for c in spec.choices if c != default)]
    if spec.type is bool:
        return [default, not default]
    low = -float("inf") if spec.low is None else spec.low
    high = float("inf") if spec.high is None else spec.high
    half = default // 2 if spec.type is int else default / 2
    step = 1 if spec.type is int else 0.25  # for defaults of zero
    guesses = (default * 2, half) if default else (step, 2 * step)
    return [default, *(g for g in guesses if low <= g <= high and g != default)]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", params=NAMES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Every family in turn."""
    trainable = importlib.import_module(f"trainables.{request.param}").TRAINABLE
    folder: Path = tmp_path_factory.mktemp(request.param)
    base = trainable.miniature(folder)
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(CLASSES)), COUNTS)
    noise = random.integers(0, 120, (len(labels), base.image_size, base.image_size))
    images = (noise + 60 * labels[:, None, None]).astype(np.uint8)
    masks = np.zeros_like(images)
    edge = base.image_size // 4
    masks[:, edge:-edge, edge:-edge] = 255
    known = np.arange(len(labels)) != 1
    images[:, edge:-edge, edge:-edge] //= 2
    given = Masks(masks * known[:, None, None].astype(np.uint8), known) if trainable.needs_masks else None
    more = np.repeat(np.arange(len(CLASSES)), 12)
    noise = random.integers(0, 120, (len(more), base.image_size, base.image_size))
    synthetic = SimpleNamespace(images=(noise + 60 * more[:, None, None]).astype(np.uint8), labels=more)
    return Family(request.param, trainable, base, images, labels, given, synthetic)


@pytest.fixture
def classifier(family: Family) -> Family:
    """Every family that classifies."""
    if not isinstance(family.trainable, Classifier):
        pytest.skip("it draws")
    return family


@pytest.fixture
def generator(family: Family) -> Family:
    """Every family that draws."""
    if not isinstance(family.trainable, Generator):
        pytest.skip("it classifies")
    return family
