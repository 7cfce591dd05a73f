"""Explicit class weights: written as lists or mappings, kept as text, checked against the classes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution

from lungtune import catalog
from lungtune.core import imbalance, yamlfile
from lungtune.core.params import build, specs
from lungtune.errors import SpaceError

CLASSES = ("covid", "normal", "viral pneumonia")
SPEC = specs(catalog.family("clip_head").Params)["class_weighting"]
TEXT = """\
family: clip_head
params:
  class_weighting: {}
start:
  - {{lr: 1e-3, class_weighting: [1, 2, 3]}}
"""


def loaded(tmp_path: Any, written: str, **settings: Any) -> Any:
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT.format(written))
    return catalog.space(str(path), settings=settings)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("[0.3, 0.7]", "[0.3, 0.7]"),
        ("[3.51, 1.17, 0.41, 2.43]", "[3.51, 1.17, 0.41, 2.43]"),
        ("[3, 7]", "[3.0, 7.0]"),
        ("{normal: 0.3, COVID: 0.7}", '{"covid": 0.7, "normal": 0.3}'),
        ("{low: 1, high: 2}", '{"high": 2.0, "low": 1.0}'),
        ('"[0.3, 0.7]"', "[0.3, 0.7]"),
    ],
)
def test_weights_are_kept_as_text_that_reads_back(written: str, text: str) -> None:
    value = yamlfile.parse(written, "here")
    assert SPEC.check(value) == text
    assert SPEC.check(text) == text
    assert build(catalog.family("clip_head").Params, {"class_weighting": value}).class_weighting == text


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("[0.3, -1]", r"class_weighting: a weight must be a positive finite number, but got -1\."),
        ("[0.3, 0]", "positive finite number, but got 0"),
        ("[0.3, .inf]", "positive finite number, but got inf"),
        ("[.nan, 1]", "positive finite number, but got nan"),
        ("{a: 1, b: x}", "positive finite number, but got 'x'"),
        ("{a: 1, A: 2}", "must name every class once"),
        ("{}", "must name every class once"),
        ('"[0.3, "', r"must be weights in class order such as \[0.3, 0.7\]"),
        ("0.3", r"must be one of none, sqrt, balanced, or weights in class order such as .*, but got '0.3'"),
        ("balance", r"but got 'balance'\. Did you mean 'balanced'\?"),
    ],
)
def test_weights_that_are_none_are_refused(written: str, why: str) -> None:
    with pytest.raises(SpaceError, match=why):
        SPEC.check(yamlfile.parse(written, "here"))


def test_a_list_of_numbers_is_one_value_other_lists_are_choices(tmp_path: Any) -> None:
    fixed = loaded(tmp_path, "[0.3, 0.7]")
    assert fixed.fixed["class_weighting"] == "[0.3, 0.7]"
    assert fixed.start[0]["class_weighting"] == "[1.0, 2.0, 3.0]"
    searched = loaded(tmp_path, "[none, balanced, [0.3, 0.7], {covid: 0.3, normal: 0.7}]")
    choices = ["none", "balanced", "[0.3, 0.7]", '{"covid": 0.3, "normal": 0.7}']
    assert searched.axes == {"class_weighting": CategoricalDistribution(choices)}
    both = loaded(tmp_path, "none", class_weighting=[[0.3, 0.7], [0.4, 0.6]])
    assert both.axes["class_weighting"].choices == ("[0.3, 0.7]", "[0.4, 0.6]")
    for wrong in ("[[0.3, 0.7]]", "[[0.3, 0.7], [0.30, 0.7]]"):
        with pytest.raises(SpaceError, match="a list must hold at least two different choices"):
            loaded(tmp_path, wrong)
    assert type(searched).from_dict(json.loads(json.dumps(searched.to_dict()))) == searched


def test_weights_come_in_class_order() -> None:
    assert imbalance.weights("balanced", CLASSES) is None
    assert imbalance.weights("[1, 2, 3]", CLASSES) == [1, 2, 3]
    named = SPEC.check({"Viral Pneumonia": 3, "normal": 2, "covid": 1})
    assert imbalance.weights(named, CLASSES) == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1, 2], r"must have a weight for each of 3 classes \(covid, normal, viral pneumonia\), but .* has 2\."),
        ({"covid": 1, "normal": 2}, r"must name every class .*, but .* lacks viral pneumonia\."),
        ({"covid": 1, "norml": 2}, r"but 'norml' is none\. Did you mean 'normal'\?"),
    ],
)
def test_weights_that_do_not_fit_the_classes_are_refused(tmp_path: Any, value: Any, why: str) -> None:
    space = loaded(tmp_path, "none", class_weighting=["none", value])
    with pytest.raises(SpaceError, match=why):
        imbalance.check(space, CLASSES)


def test_every_value_a_trial_may_have_is_checked(tmp_path: Any) -> None:
    imbalance.check(loaded(tmp_path, "none"), CLASSES)
    with pytest.raises(SpaceError, match=r"\[1.0, 2.0, 3.0\] has 3"):  # of the start point
        imbalance.check(loaded(tmp_path, "none"), CLASSES[:2])
    with pytest.raises(SpaceError, match="needs one class a case, but the data have none"):
        imbalance.check(loaded(tmp_path, "none"), ())


def test_smote_of_a_class_of_one_image_is_refused(tmp_path: Any) -> None:
    space = loaded(tmp_path, "none", smote=[False, True])
    imbalance.check(space, CLASSES, dict.fromkeys(CLASSES, 2))
    with pytest.raises(SpaceError, match="smote needs at least 2 training images of a class, but normal has 1"):
        imbalance.check(space, CLASSES, {"covid": 5, "normal": 1, "viral pneumonia": 0})
