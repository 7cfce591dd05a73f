"""Synthetic images in spaces and recipes: need, amount, provenance, and the suggested comparison."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from lungtune import catalog
from lungtune.core import comparison, params, recipe, synthetic
from lungtune.core.resource import Fidelity
from lungtune.core.space import SearchSpace, together
from lungtune.core.trial import Objective
from lungtune.errors import SpaceError

FAMILY = catalog.family("vit_lora")
SPACE = catalog.space("vit_lora", "demo")
COUNTS = (9, 6, 5)
FIXED = {name: spec.default for name, spec in params.specs(FAMILY.Params).items()}
BANK = {"path": "/banks/a", "key": "ab" * 8, "hash": "f" * 64, "counts": {"normal": 3}}


def needed(of: SearchSpace) -> tuple[int, ...]:
    return tuple(synthetic.needed(of, dict(zip("abc", COUNTS, strict=True))).values())


def space(start=(), axes=None, **fixed):
    kept = {name: value for name, value in (FIXED | fixed).items() if name not in (axes or {})}
    return replace(SPACE, axes=axes or {}, fixed=kept, start=tuple(start))


@pytest.mark.parametrize(
    ("made", "ratio"),
    [
        (space(), 0),
        (space(synthetic_ratio=1.5), 1.5),
        (space(axes={"synthetic_ratio": FloatDistribution(0, 2)}), 2),
        (space(axes={"synthetic_ratio": CategoricalDistribution([0.0, 0.5])}), 0.5),
        (space(axes={"synthetic_ratio": FloatDistribution(0, 2)}, start=[{"synthetic_ratio": 3.0}]), 3),
        (space(synthetic_ratio=1.0, synthetic_images="duplicates"), 0),
        (space(synthetic_ratio=1.0, synthetic_images="none"), 0),
        (space(synthetic_ratio=1.0, axes={"synthetic_images": CategoricalDistribution(["none", "generated"])}), 1),
    ],
)
def test_bank_is_needed_if_a_trial_may_use_it(made, ratio):
    assert synthetic.wanted(made) == ratio
    assert synthetic.wanted(SearchSpace.from_dict(made.to_dict())) == ratio
    other = replace(space(), name="other")
    assert synthetic.wanted(together([other, made])) == ratio
    if not ratio:
        with pytest.raises(SpaceError, match=r"no trial of vit_lora uses .* --set 'synthetic_ratio=\[0, 0\.5, 1\]'\?"):
            synthetic.check_bank_used(made)
    else:
        synthetic.check_bank_used(made)


def test_older_studies_need_no_bank():
    old = replace(space(), fixed={name: value for name, value in FIXED.items() if name not in synthetic.NAMES})
    assert synthetic.wanted(old) == 0


def test_bank_must_suffice_for_every_ratio_and_balance():
    assert needed(space(synthetic_ratio=1.0)) == (7, 7, 6)
    assert needed(space(synthetic_ratio=1.0, synthetic_balance="fill")) == (5, 7, 8)
    both = {"synthetic_balance": CategoricalDistribution(["uniform", "fill"])}
    assert needed(space(synthetic_ratio=1.0, axes=both)) == (7, 7, 8)
    joint = together([replace(space(synthetic_ratio=2.0), name="other"), space(synthetic_ratio=1.0, axes=both)])
    assert needed(joint) == (14, 13, 13)
    assert needed(space()) == (0, 0, 0)


def test_fingerprint_covers_the_bank_only_if_it_is_used():
    """A recipe from before there were any has none of the parameters; read today, it has their defaults."""
    old = SearchSpace(
        name="s", family="f", summary="", profile="full", objective=Objective("macro_f1"), sampler="tpe", trials=1,
        fidelity=Fidelity(max=3, min=1), base={"weights": "w"}, fixed={"lr": 1e-3}, axes={}, start=(), seed=4,
    )  # fmt: skip
    today = replace(old, fixed={**dict(zip(synthetic.NAMES, (0.0, "uniform", "mix", "generated"))), **old.fixed})
    mark = recipe.fingerprint(old, 3, "split")
    assert mark == "0a90f2beeb1eba08"  # as it was
    assert recipe.fingerprint(today, 3, "split") == recipe.fingerprint(today, 3, "split", BANK) == mark
    assert recipe.fingerprint(replace(today, fixed={**today.fixed, "synthetic_use": "pretrain"}), 3, "split") == mark
    mixed = space(synthetic_ratio=1.0)
    result = recipe.fingerprint(mixed, 3, "split", BANK)
    assert result != mark
    assert recipe.fingerprint(mixed, 3, "split", {**BANK, "path": "/elsewhere", "hash": "e"}) == result
    assert recipe.fingerprint(mixed, 3, "split", {**BANK, "key": "cd" * 8}) != result
    assert recipe.fingerprint(space(synthetic_ratio=2.0), 3, "split", BANK) != result


@pytest.mark.parametrize("bank", ["here", {"path": "/banks/a"}, {**BANK, "counts": 3}])
def test_a_recipes_bank_must_be_whole(bank, tmp_path):
    about = {"study": "s", "study_id": "i", "trial": 0, "fidelity": SPACE.fidelity.max, "split": "h", "split_seed": 0}
    about |= {"score": {"value": 0.5}, "fingerprint": "f"}
    built = replace(space(synthetic_ratio=1.0), seed=1, provenance={**about, "bank": BANK})
    assert recipe.provenance(built, tmp_path).bank == BANK
    assert recipe.provenance(replace(built, provenance=about), tmp_path).bank is None
    with pytest.raises(SpaceError, match=r"provenance\.bank must have path, key, hash, counts"):
        recipe.provenance(replace(built, provenance={**about, "bank": bank}), tmp_path)


def test_recipe_with_synthetic_images_suggests_comparison():
    asked = "lungtune retrain r.yaml --compare synthetic_images=none,duplicates,generated --seeds 3"
    mixed = space(synthetic_ratio=1.0)
    assert comparison.commands(Path("r.yaml"), FAMILY, mixed, mixed.fixed) == [asked]
    assert comparison.commands(Path("r.yaml"), FAMILY, mixed, space().fixed) == []
    compared = comparison.read(synthetic.QUESTION, mixed, FAMILY)
    assert (compared.control, compared.own) == ("none", "generated")
    assert compared.others == ("none", "duplicates")
    assert comparison.read("synthetic_images=duplicates,none", mixed, FAMILY).control == "none"
    assert synthetic.wanted(replace(space(), start=comparison.read("synthetic_ratio=0,2", space(), FAMILY).points)) == 2


@pytest.mark.parametrize("text", ["synthetic_images=none,generated", "synthetic_use=mix,pretrain"])
def test_inert_parameters_are_not_compared(text):
    with pytest.raises(SpaceError, match=r"changes nothing where synthetic_ratio is 0, as in this recipe; compare"):
        comparison.read(text, space(), FAMILY)
