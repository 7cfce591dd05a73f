"""Effective parameters, and inert ones left out of identities."""

from dataclasses import dataclass

import pytest

from lungtune.core.params import acting, inert, param


@dataclass(frozen=True)
class Params:
    lr: float = param(0.1, low=0.0)
    kind: str = param("a", choices=("a", "b"), neutral="a")
    size: float = param(1.0, low=0.0, only_with=("kind", "b"))
    extra: float = param(0.0, low=0.0, neutral=0.0, only_with=("kind", "b"))
    flag: bool = param(False, neutral=False)


@dataclass(frozen=True)
class Base:
    views: int = param(0, neutral=0)


RULES = inert(Base, Params)


def test_rules_of_all_classes_are_joined():
    assert RULES == {
        "views": {"neutral": 0},
        "kind": {"neutral": "a"},
        "size": {"only_with": ["kind", "b"]},
        "extra": {"neutral": 0.0, "only_with": ["kind", "b"]},
        "flag": {"neutral": False},
    }


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"lr": 0.1, "kind": "a", "size": 2.0, "extra": 1.0, "flag": False, "views": 0}, {"lr"}),
        ({"lr": 0.0, "kind": "b", "size": 1.0, "extra": 0.0, "flag": True}, {"lr", "kind", "size", "flag"}),
        ({"kind": "b", "extra": 1.0, "views": 2}, {"kind", "extra", "views"}),
        ({"size": 1.0, "unknown": 0}, {"unknown"}),
    ],
)
def test_acting_returns_only_active_parameters(values, left):
    assert acting(values, RULES) == {name: values[name] for name in left}


def test_without_rules_everything_acts():
    assert acting({"kind": "a"}, {}) == {"kind": "a"}
