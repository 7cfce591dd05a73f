"""What a family declares: light import, frozen fields with bounds, parameters that are read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lungtune.core import synthetic
from lungtune.core.family import Classifier, Trainable
from lungtune.core.params import acting, build, inert, specs

from .conftest import HORIZON, NAMES, Family

HEAVY = ("torch", "ray", "mlflow", "open_clip", "timm", "numpy", "pandas")
LOOP = {"lr", "weight_decay", "batch_size", "warmup", "augmentation", "class_weighting", "optimizer", "momentum"}
LOOP |= {"lr_schedule", "warmup_start", "lr_cosine", "lr_step", "lr_gamma"}
LOOP_SINCE_0_1 = {"optimizer", "momentum", "lr_schedule", "warmup_start", "lr_cosine", "lr_step", "lr_gamma"}


@pytest.mark.parametrize("name", NAMES)
def test_import_is_light(name: str) -> None:
    code = f"import sys, json, trainables.{name}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_family_is_one_instance_with_a_summary(family: Family) -> None:
    assert isinstance(family.trainable, Trainable)
    assert 0 < len(family.trainable.summary) <= 100


@pytest.mark.parametrize("part", ["Base", "Params"])
def test_fields_are_frozen_explained_and_within_their_own_bounds(family: Family, part: str) -> None:
    cls = getattr(family.trainable, part)
    instance = cls()
    assert build(cls, dataclasses.asdict(instance)) == instance
    for spec in specs(cls).values():
        assert spec.help, f"{spec.name} needs a help text"
        if spec.type in (int, float):
            assert None not in (spec.low, spec.high), f"{spec.name} needs bounds"
        with pytest.raises(FrozenInstanceError, match="cannot assign to field"):
            setattr(instance, spec.name, spec.default)


def test_what_the_loop_reads_is_there(family: Family) -> None:
    assert specs(family.trainable.Params).keys() >= LOOP
    mixes = {*synthetic.NAMES} if isinstance(family.trainable, Classifier) else set()
    assert specs(family.trainable.Params).keys() & {*synthetic.NAMES} == mixes
    assert "image_size" in specs(family.trainable.Base)


@pytest.mark.parametrize("part", ["Base", "Params"])
def test_neutral_values_and_owners_are_values_of_fields(family: Family, part: str) -> None:
    known = specs(getattr(family.trainable, part))
    for spec in known.values():
        if spec.neutral is not None:
            assert spec.check(spec.neutral) == spec.neutral
        if spec.only_with:
            owner, value = spec.only_with
            assert known[owner].check(value) == value
            assert spec.default == spec.neutral or known[owner].default != value


def test_new_parameters_left_alone_change_no_identity(family: Family) -> None:
    """A default that is not neutral would change the fingerprint of recipes from before there was the parameter."""
    values = dataclasses.asdict(family.trainable.Params())
    rules = inert(family.trainable.Params)
    assert rules.keys() >= LOOP_SINCE_0_1
    assert not acting(values, rules).keys() & LOOP_SINCE_0_1


def test_what_switches_an_addition_off_is_a_value_of_the_parameter(family: Family) -> None:
    known = specs(family.trainable.Params)
    assert {name: known[name].check(value) for name, value in family.trainable.ablation.items()} == dict(
        family.trainable.ablation
    )


class Spy:
    """Params that note which fields are read."""

    def __init__(self, params: Any) -> None:
        self._params, self.read = params, set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._params, name)


def test_every_parameter_is_read(family: Family) -> None:
    pack = family.pack()
    spy = Spy(family.default)
    pack.join(spy, seed=1, horizon=HORIZON)
    pack.step()
    family.told(pack, 0)
    assert specs(family.trainable.Params).keys() - spy.read == set()


def test_weights_of_the_miniature_are_found(family: Family) -> None:
    family.trainable.check(family.base)
