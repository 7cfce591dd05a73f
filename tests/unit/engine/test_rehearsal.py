"""Pre-flight check: wrong return values are refused before a trial begins, naming the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lungtune.core.contract import ContractError
from lungtune.core.family import Family, LoraTarget
from lungtune.core.params import param
from lungtune.data.dataset import Part
from lungtune.engine.pack import Pack
from lungtune.engine.rehearsal import rehearse
from lungtune.models import feature_head
from lungtune.models.params import Loop
from lungtune.tasks.classification import Classification


@dataclass(frozen=True)
class Base:
    """The network."""

    image_size: int = param(8, low=8, high=8)


@dataclass(frozen=True)
class Params(Loop):
    """Hyperparameters of a trial."""


class Whole(Family[Base, Params]):
    """A head on pixels that fulfils the contract."""

    summary = "a head"
    tasks = (Classification(),)
    Base = Base
    Params = Params

    def check(self, base):
        pass

    def miniature(self, folder):
        return Base()

    def backbone(self, base, classes):
        return nn.Flatten()

    def trainable_parameters(self, model, params, classes, generator):
        return feature_head.draw(64, 0, len(classes), generator)

    def features(self, model, batch):
        return {"pixels": model(batch["image"])}

    def outputs(self, model, batch, layout):
        return {"logits": feature_head.linear(batch["pixels"], layout)}

    def export(self, base, params, classes, adapter, folder):
        pass


def rehearsed(**methods: Any) -> Pack:
    """Rehearse a family with these methods in place of its own."""
    family = type("Own", (Whole,), methods)()
    part = Part.of(image=np.zeros((4, 1, 8, 8), np.uint8), label=np.array([0, 0, 1, 1]))
    pack = Pack(family, Base(), ("normal", "viral"), part, capacity=1)
    rehearse(pack, Params(), part)
    return pack


def test_a_whole_family_leaves_its_pack_empty():
    assert rehearsed().slots == ()


def loss(change):
    return lambda self, outputs, batch, layout: change(Whole.loss(self, outputs, batch, layout))


BROKEN = {
    "backbone": ({"backbone": lambda self, base, classes: None}, r"must return a torch\.nn\.Module, but returned None"),
    "features no mapping": (
        {"features": lambda self, model, batch: model(batch["image"])},
        r"must return a mapping of names to tensors \(4, \.\.\.\), but returned a tensor \(4, 64\)",
    ),
    "features of one row": (
        {"features": lambda self, model, batch: {"pixels": model(batch["image"]).mean(0)}},
        r"as many rows as there are cases, 4, but returned 'pixels' a tensor \(64,\)",
    ),
    "parameters no mapping": (
        {"trainable_parameters": lambda self, model, params, classes, generator: [torch.zeros(2)]},
        r"must return a mapping of names to floating-point tensors, but returned a list of a tensor \(2,\)",
    ),
    "nothing trains": (
        {"trainable_parameters": lambda self, model, params, classes, generator: {}},
        "must return something that trains",
    ),
    "targets no sequence": ({"lora_targets": lambda self, model, params: None}, "must return a sequence of LoraTarget"),
    "targets of nothing": (
        {"lora_targets": lambda self, model, params: [LoraTarget("mix", 4, 8.0, 0.0)]},
        r"test_rehearsal\.py:\d+: LoRA target 'mix' must match",
    ),
    "outputs no mapping": (
        {"outputs": lambda self, model, batch, layout: batch["pixels"]},
        r"must return a mapping of names to tensors",
    ),
    "outputs of another name": (
        {"outputs": lambda self, *rest: {"logit": Whole.outputs(self, *rest)["logits"]}},
        r"must return 'logits', which the task 'classification' takes, but returned logit\. Did you mean 'logit'",
    ),
    "outputs of few rows": (
        {"outputs": lambda self, *rest: {"logits": Whole.outputs(self, *rest)["logits"][:3]}},
        r"as many rows as there are cases, 4, but returned 'logits' a tensor \(3, 2\)",
    ),
    "outputs of few classes": (
        {"outputs": lambda self, *rest: {"logits": Whole.outputs(self, *rest)["logits"][:, :1]}},
        r"must return what the task 'classification' takes, which raises .*'logits': a tensor \(4, 1\)",
    ),
    "loss of the batch": ({"loss": loss(torch.mean)}, r"must return a tensor \(4,\), a loss for each of 4 cases"),
    "loss is nan": ({"loss": loss(lambda found: found * float("nan"))}, "finite losses before anything is trained"),
    "loss detached": ({"loss": loss(torch.detach)}, "what depends on what trains"),
    "nothing predicted": ({"predict": lambda self, outputs, batch: {}}, r"\(4, \.\.\.\), but returned \{\}"),
    "other predicted": (
        {"predict": lambda self, outputs, batch: {"probability": outputs["logits"]}},
        r"must return 'probabilities', which the task .* returned probability\. Did you mean 'probability'",
    ),
}


@pytest.mark.parametrize(("methods", "match"), BROKEN.values(), ids=BROKEN.keys())
def test_a_wrong_result_names_its_method(methods, match):
    with pytest.raises(ContractError, match=match) as raised:
        rehearsed(**methods)
    assert str(raised.value).startswith(f"{__file__}:")
