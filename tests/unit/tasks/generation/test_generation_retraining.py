"""Evaluator and retraining of a generator, with a family that draws stripes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungtune.core.trial import Report
from lungtune.data.dataset import Dataset, Part
from lungtune.retraining.frame import Options
from lungtune.tasks.generation import GenerativeFamily
from lungtune.tasks.generation.evaluator import SHOWN
from tests.unit.retraining import fakes

CLASSES = fakes.CLASSES


class Stripes(GenerativeFamily, fakes.FakeFamily):
    """Draws stripes whose width is the class; ``skill`` is how little noise there is."""

    def __init__(self):
        pass

    def draw(self, model, labels, seeds, layout):
        raise AssertionError("the pack draws")

    def embedder(self, base, device):
        return lambda images: torch.nn.functional.avg_pool2d(images, 2).flatten(1)

    def content(self, base):
        return "stripes"

    def captions(self, params, classes):
        return list(classes)


def stripes(label, seed, noise):
    image = np.zeros((1, 8, 8))
    image[:, :, :: 2 * (label + 1)] = 200
    return np.clip(image + noise * np.random.default_rng(seed).normal(size=image.shape), 0, 255).astype(np.uint8)


def part(name, cases=40, **_):
    labels = np.arange(cases) % 2
    images = np.stack([stripes(label, hash_(name, k), 30) for k, label in enumerate(labels)])
    return Part.of(image=images, label=labels, patients=[f"{name}{k // 2}" for k in range(cases)])


def hash_(name, k):
    return 1000 * ("train", "validation", "test").index(name) + k


class Pack:
    """One trial, and the base beside it, which draws noise."""

    capacity = 1

    def __init__(self):
        self.noise = {0: 90.0}

    def join(self, params, seed, horizon):
        self.noise[9] = 300.0
        return 9

    def leave(self, slot):
        del self.noise[slot]

    def draw(self, slot, labels, seeds, stride):
        assert stride == 64
        built = [stripes(label, seed % 10**9, self.noise[slot]) for label, seed in zip(labels, seeds)]
        return torch.from_numpy(np.stack(built))

    def adapter(self, slot):
        return {}

    def samples(self, slot):
        return 0


class Session(fakes.FakeSession):
    """Draws instead of predicting."""

    def __init__(self, family, base, data, fidelity, objective, slots=1):
        super().__init__(family, SimpleNamespace(samples=10, image_size=8), data, fidelity, objective, slots)
        self.pack = Pack()
        self.pack.capacity = slots
        for evaluator in self.evaluators.values():
            evaluator.device = torch.device("cpu")

    def predict(self, number, part):
        skill = self.runs[number].params["skill"]
        self.pack.noise[0] = 90.0 + 150 * (0.8 - skill)
        return {"generation": self.evaluators["generation"].predict(self.pack, 0, part)}

    def _report(self, number):
        evaluator, part = self.evaluators["generation"], self.dataset.validation
        return Report(1.0, 40, evaluator.scores(part, self.predict(number, part)["generation"]))


@pytest.fixture
def dataset():
    parts = {name: part(name) for name in ("train", "validation")}
    return Dataset(CLASSES, **parts, test=None, manifest=None, audit=None, source="stripes")


@pytest.fixture
def evaluator(dataset):
    family = Stripes()
    return family.tasks[0].evaluator(family, SimpleNamespace(samples=10, image_size=8), dataset, torch.device("cpu"))


def test_scores_and_references_of_drawn_images(evaluator, dataset):
    pack = Pack()
    predicted = evaluator.predict(pack, 0, dataset.validation)
    assert predicted["images"].shape == (20, 8, 8)
    assert np.bincount(predicted["drawn"]).tolist() == [10, 10]
    scores, references = evaluator.scores(dataset.validation, predicted), evaluator.references(pack, None)
    assert references["real"]["cmmd"] < scores["cmmd"] < references["untrained"]["cmmd"]
    reported = {"cmmd", "coverage", "copies", "recognised", *(f"cmmd_{name}" for name in CLASSES)}
    assert reported <= scores.keys()
    assert 9 not in pack.noise, "the untrained base has left"
    assert set(evaluator.task.headline) <= scores.keys()
    assert evaluator.picture(predicted).startswith(b"\x89PNG")
    assert SHOWN < 10


def test_predictions_on_another_part_are_scored_there(evaluator, dataset):
    predicted, test = evaluator.predict(Pack(), 0, dataset.validation), part("test")
    one, other = evaluator.kept(dataset.validation, predicted), evaluator.kept(test, predicted)
    assert (one.samples == other.samples).all()
    assert not np.array_equal(one.real, other.real)
    assert other.real is evaluator.kept(test, predicted).real, "embedded once"


def test_generator_is_compared_with_base_and_real_images(tmp_path, monkeypatch):
    monkeypatch.setattr(fakes, "FakeSession", Session)
    monkeypatch.setattr(fakes, "part", part)
    fakes.install(monkeypatch)
    family = Stripes()
    space, origin = fakes.recipe(family)
    kind = family.task(space.objective.task).retraining()
    one = kind(Path("g.yaml"), space, origin, Options(seeds=2, test=True, compare="skill=0,0.8"), family)
    one.open(fakes.inspection(), tmp_path)
    one.train()
    content = one.content()
    one.before_test()
    one.score(content)
    one.write(content)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(content))
    assert content["task"] == "generation"
    for name in ("validation", "test"):
        section = content[name]
        assert list(section["recognised"]) == ["recipe", "untrained", "real"]
        assert section["gain"]["low"] > 0
        assert section["beside"]["real"]["cmmd"]["value"] < section["metrics"]["cmmd"]["value"]
        effect = content["effect"][name]["effect"]
        assert (effect["helps"], effect["metric"]) == (True, "cmmd")
        assert set(effect["classes"]) == set(CLASSES)
    assert content["reproduction"]["tolerance"] == pytest.approx(0.05 * 0.8)
    words = (tmp_path / "report.md").read_text()
    assert "near-copies" in words
    assert "samples.png" in words
    assert "| recognised_normal | " in words
    assert "## Effect of skill" in words
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert "no nearer" not in one.text(content)
