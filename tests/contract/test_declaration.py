"""Family declarations: light import, frozen bounded fields, parameters that are read."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lungtune.core import contract, synthetic
from lungtune.core.family import Family as FamilyContract
from lungtune.core.params import acting, build, inert, specs

from .conftest import HOME, HORIZON, NAMES, Sample

HEAVY = ("torch", "ray", "mlflow", "open_clip", "timm", "numpy", "pandas")
RARE_SINCE_0_1 = {"sampling", "loss", "focal_gamma", "smote", "smote_neighbours"}
LOOP_SINCE_0_1 = {"optimizer", "momentum", "lr_schedule", "warmup_start", "lr_cosine", "lr_step", "lr_gamma"}


@pytest.mark.parametrize("name", NAMES)
def test_import_is_light(name: str) -> None:
    code = (
        f"import sys, json; from lungtune import catalog; before = set(sys.modules); catalog.family({name!r})\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in set(sys.modules) - before]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", [name for name in NAMES if not (HOME / "trainables" / f"{name}.py").exists()])
def test_a_shipped_module_imports_without_numpy(name: str) -> None:
    code = (
        f"import sys, json, lungtune.trainables.{name}; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_family_is_one_instance_with_a_summary(family: Sample) -> None:
    assert isinstance(family.family, FamilyContract)
    assert 0 < len(family.family.summary) <= 100


@pytest.mark.parametrize("part", ["Base", "Params"])
def test_fields_are_frozen_explained_and_within_their_own_bounds(family: Sample, part: str) -> None:
    cls = getattr(family.family, part)
    instance = cls()
    assert build(cls, dataclasses.asdict(instance)) == instance
    for spec in specs(cls).values():
        assert spec.help, f"{spec.name} needs a help text"
        if spec.type in (int, float):
            assert None not in (spec.low, spec.high), f"{spec.name} needs bounds"
        with pytest.raises(FrozenInstanceError, match="cannot assign to field"):
            setattr(instance, spec.name, spec.default)


def test_params_have_the_loops_fields(family: Sample) -> None:
    assert specs(family.family.Params).keys() >= {*contract.LOOP}
    assert ("class_weighting" in specs(family.family.Params)) == ("label" in family.part)
    assert ("sampling" in specs(family.family.Params)) == ("label" in family.part)
    mixes = {*synthetic.NAMES} if any(task.name == "classification" for task in family.family.tasks) else set()
    assert specs(family.family.Params).keys() & {*synthetic.NAMES} == mixes
    losses = {"loss", "focal_gamma"} if mixes else set()
    assert specs(family.family.Params).keys() & {"loss", "focal_gamma"} == losses
    assert "image_size" in specs(family.family.Base)


@pytest.mark.parametrize("part", ["Base", "Params"])
def test_neutral_values_and_owners_are_values_of_fields(family: Sample, part: str) -> None:
    known = specs(getattr(family.family, part))
    for spec in known.values():
        if spec.neutral is not None:
            assert spec.check(spec.neutral) == spec.neutral
        if spec.only_with:
            owner, value = spec.only_with
            assert known[owner].check(value) == value
            assert spec.default == spec.neutral or known[owner].default != value


def test_new_parameters_left_alone_change_no_identity(family: Sample) -> None:
    """A default that is not neutral would change the fingerprint of recipes from before there was the parameter."""
    values = dataclasses.asdict(family.family.Params())
    rules = inert(family.family.Params)
    assert rules.keys() >= LOOP_SINCE_0_1
    assert rules.keys() >= RARE_SINCE_0_1 & values.keys()
    assert not acting(values, rules).keys() & (LOOP_SINCE_0_1 | RARE_SINCE_0_1)


def test_ablation_values_are_valid_parameter_values(family: Sample) -> None:
    known = specs(family.family.Params)
    assert {name: known[name].check(value) for name, value in family.family.ablation.items()} == dict(
        family.family.ablation
    )


class Spy:
    """Params that note which fields are read."""

    def __init__(self, params: Any) -> None:
        self._params, self.read = params, set()

    def __getattr__(self, name: str) -> Any:
        self.read.add(name)
        return getattr(self._params, name)


def test_every_parameter_is_read(family: Sample) -> None:
    pack = family.pack()
    spy = Spy(family.default)
    pack.join(spy, seed=1, horizon=HORIZON)
    pack.step()
    family.predicted(pack, 0)
    assert specs(family.family.Params).keys() - spy.read == set()


def test_the_miniature_is_small(family: Sample) -> None:
    model = family.family.backbone(family.base, family.classes)
    assert family.base.image_size <= 32
    assert sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000


def test_weights_of_the_miniature_are_located(family: Sample) -> None:
    family.family.check(family.base)
