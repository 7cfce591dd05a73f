"""Values accepted by --compare, and the suggested command for a family's ablation."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from lungtune import catalog
from lungtune.core import comparison, params
from lungtune.core.comparison import commands, read
from lungtune.core.params import param
from lungtune.errors import SpaceError

FAMILY = catalog.family("res_unet")
SPACE = catalog.space("res_unet", "demo")
DEFAULTS = {name: spec.default for name, spec in params.specs(FAMILY.Params).items()}


def recipe(**values):
    return replace(SPACE, axes={}, fixed=DEFAULTS | values)


def test_values_are_read_as_a_space_file_reads_them():
    compared = read("lambda2=0,1e-2,0.1,1", recipe(lambda2=0.01), FAMILY)
    assert (compared.axis, compared.values, compared.control, compared.own) == (
        "lambda2",
        (0.0, 0.01, 0.1, 1.0),
        0.0,
        0.01,
    )
    assert compared.others == (0.0, 0.1, 1.0)


@pytest.mark.parametrize(
    ("text", "values", "control"),
    [
        ("lambda2=1,0.1", (1.0, 0.1, 0.5), 1.0),
        ("lambda2=1,0,1", (1.0, 0.0, 0.5), 0.0),
        ("lambda2=0", (0.0, 0.5), 0.0),
        ("class_weighting=sqrt,none", ("sqrt", "none"), "sqrt"),
        ("augmentation=2,1,0", (2, 1, 0), 0),
    ],
)
def test_values_include_the_recipes_and_control_is_0_or_first(text, values, control):
    compared = read(text, recipe(lambda2=0.5, class_weighting="none", augmentation=1), FAMILY)
    assert (compared.values, compared.control) == (values, control)


def test_switched_off_value_is_the_control_in_any_order(monkeypatch):
    monkeypatch.setattr(type(FAMILY), "ablation", {"class_weighting": "none"})
    assert read("class_weighting=sqrt,none", recipe(), FAMILY).control == "none"


def test_the_recipes_value_in_few_digits_is_the_recipes_value():
    compared = read("lambda2=0,0.0123,0.012", recipe(lambda2=0.012345678), FAMILY)
    assert compared.values == (0.0, 0.012345678, 0.012)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lambda2", r"--compare takes NAME=VALUE,VALUE,\.\.\. such as lr=1e-4,1e-3, but got 'lambda2'\."),
        ("=1,2", "--compare takes NAME=VALUE"),
        ("lambda2=", "but got no value of lambda2"),
        ("lambda=0,1", r"'lambda' is not a parameter of res_unet\. Did you mean 'lambda2'\?"),
        (
            "momentum=0,0.9",
            r"momentum changes nothing unless optimizer is sgd, but in this recipe it is adamw; compare opt",
        ),
        ("image_size=32,64", r"'image_size' is a setting of its base, which all compared models share\. (Did|Known)"),
        ("lambda2=0,-1", r"--compare: lambda2 >= 0 must hold, but got -1"),
        ("lambda2=0,high", "lambda2 must be a number, but got 'high'"),
        ("lambda2=0,[1]", "lambda2 must be a number"),
        ("lambda2=0,~", "lambda2 must be a number, but got None"),
        ("lambda2=0,}", "--compare lambda2:1: not readable as YAML"),
        ("class_weighting=none,balance", r"must be one of .* but got 'balance'\. Did you mean 'balanced'\?"),
        ("lambda2=0.5,0.50", "at least two different values of lambda2, but got only 0.5, which is the recipe's own"),
    ],
)
def test_a_mistake_is_one_sentence(text, message):
    with pytest.raises(SpaceError, match=message):
        read(text, recipe(lambda2=0.5), FAMILY)


@pytest.mark.parametrize(
    ("own", "listed"),
    [(0.0, "0,0.01,0.1,1"), (0.012345, "0,0.001,0.0123,0.1"), (0.05, "0,0.01,0.05,1"), (10.0, "0,0.1,1,10")],
)
def test_suggested_values_are_control_winner_and_decades(own, listed):
    (command,) = commands(Path("r.yaml"), FAMILY, SPACE, DEFAULTS | {"lambda2": own})
    assert command == f"lungtune retrain r.yaml --compare lambda2={listed} --seeds 3"
    compared = read(command.split("--compare ")[1].split()[0], recipe(lambda2=own), FAMILY)
    assert (len(compared.values), compared.control, compared.own) == (4, 0.0, own), "it can be given as it is"


def test_values_of_other_kinds_of_axes_are_suggested():
    def asked(axis, own):
        space = replace(SPACE, axes={} if axis is None else {"lambda2": axis})
        return [command.split("=")[1].split()[0] for command in commands(Path("r"), FAMILY, space, {"lambda2": own})]

    assert asked(None, 0.3) == ["0,0.3"]
    assert asked(None, 0.0) == [], "there is nothing to hold against it"
    assert asked(FloatDistribution(0.0, 1.0), 0.3) == ["0,0.3"]
    assert asked(CategoricalDistribution([0.0, 0.5, 2.0]), 2.0) == ["0,0.5,2"]
    assert asked(FloatDistribution(20.0, 50.0, log=True), 30.0) == ["0,30"]


def test_family_without_ablation_has_no_command():
    family, space = catalog.family("clip_lora"), catalog.space("clip_lora", "demo")
    assert commands(Path("r.yaml"), family, space, dict(space.fixed)) == []


def test_a_switch_is_off_when_false():
    @dataclass(frozen=True)
    class Params:
        extra: bool = param(True)

    family = type("Family", (), {"Params": Params, "Base": Params, "ablation": {}})
    family.Base = dataclass(frozen=True)(type("Base", (), {}))
    compared = read("extra=true,false", replace(SPACE, fixed={}), family)
    assert (compared.values, compared.control) == ((True, False), False)
    assert comparison.shown(0.123456) == "0.1235"
