"""Recipes round-trip: same values and types for any text."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune import catalog
from lungtune.core import recipe, yamlfile
from lungtune.core.params import param
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace
from lungtune.core.trial import Objective


@dataclass(frozen=True)
class Params:
    lr: float = param(1e-4, low=0.0, help="step:\n# size", unit="1/s")


FAMILY = SimpleNamespace(substitute="", Base=Params, Params=Params, metrics={"nll": None})
SPACE = SearchSpace(
    name="x", family="f", summary="no: #1", profile="full", objective=Objective("nll", "min"), sampler="tpe", trials=1,
    fidelity=Fidelity(max=3, min=0.5), base={"lr": 1e-5}, fixed={"lr": 5e-5}, axes={}, start=(), data="folder:/a b",
    seed=7,
)  # fmt: skip

OLD = Path(__file__).parents[2] / "fixtures" / "recipes_0.1"
"""Recipes written by version 0.1, before there were optimisers and schedules to choose from."""

text = st.text(max_size=20)
scalars = st.one_of(text, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False))


def test_objective_of_an_ambiguous_name_is_written_in_full():
    space = replace(SPACE, objective=Objective("nll", "min", "first"))
    family = SimpleNamespace(substitute="", Base=Params, Params=Params, metrics={"first.nll": None, "second.nll": None})
    assert yamlfile.parse(recipe.dump(space, family, {}, ""), "here")["objective"] == "first.nll"


@given(st.dictionaries(text, scalars, max_size=5), st.lists(scalars, max_size=3), scalars)
def test_any_text_is_read_back_equal(block, several, one):
    about = {"block": (block, "a note"), "several": several, "one": (one, "note # two")}
    back = yamlfile.parse(recipe.dump(SPACE, FAMILY, about, "Title\nline"), "here")
    assert back["provenance"] == {"block": block, "several": several, "one": one}
    assert type(back["provenance"]["one"]) is type(one)
    assert (back["summary"], back["data"], back["seed"]) == ("no: #1", "folder:/a b", 7)
    assert back["params"] == {"lr": 5e-5}


def test_nan_is_read_back_as_nan():
    back = yamlfile.parse(recipe.dump(SPACE, FAMILY, {"one": math.nan}, ""), "here")
    assert math.isnan(back["provenance"]["one"])


@pytest.mark.parametrize("change", [{"seed": 8}, {"fixed": {"lr": 6e-5}}, {"fidelity": Fidelity(max=4, min=0.5)}])
def test_fingerprint_covers_what_determines_the_weights(change):
    mark = recipe.fingerprint(SPACE, 3, "hash")
    assert recipe.fingerprint(replace(SPACE, **change), 3, "hash") != mark
    assert recipe.fingerprint(SPACE, 1, "hash") != mark
    assert recipe.fingerprint(SPACE, 3, "other") != mark


@pytest.mark.parametrize("name", ["both-1", "mixed-2", "unet-1"])
def test_recipes_of_version_0_1_keep_their_fingerprint(name):
    path = OLD / f"{name}.yaml"
    space = catalog.space(str(path))
    origin = recipe.provenance(space, path)
    assert recipe.fingerprint(space, origin.fidelity, origin.split, origin.bank) == origin.fingerprint
    assert recipe.fingerprint(
        changed(space, momentum=0.9, lr_gamma=0.5), origin.fidelity, origin.split, origin.bank
    ) == (origin.fingerprint)
    assert recipe.fingerprint(changed(space, optimizer="sgd"), origin.fidelity, origin.split) != origin.fingerprint


def test_inert_parameter_is_not_in_the_fingerprint():
    space = catalog.space(str(OLD / "both-1.yaml"))
    sgd, step = changed(space, optimizer="sgd"), changed(space, lr_schedule="step")
    marks = [
        recipe.fingerprint(each, 3, "hash")
        for each in (
            space,
            sgd,
            changed(sgd, momentum=0.9),
            step,
            changed(step, lr_step=0.5),
            changed(step, lr_gamma=0.5),
        )
    ]
    assert len(set(marks)) == len(marks)
    assert recipe.fingerprint(changed(sgd, lr_step=0.5), 3, "hash") == marks[1]
    assert recipe.fingerprint(SearchSpace.from_dict(json.loads(json.dumps(sgd.to_dict()))), 3, "hash") == marks[1]


def changed(space, **params):
    return replace(space, fixed={**space.fixed, **params})


def test_fingerprint_ignores_names_and_number_spelling():
    other = replace(SPACE, name="y", summary="", data="folder:/elsewhere", fidelity=Fidelity(max=3.0, min=0.5, eta=3))
    assert recipe.fingerprint(other, 3.0, "hash") == recipe.fingerprint(SPACE, 3, "hash")
