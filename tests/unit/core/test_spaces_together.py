"""Several spaces in one search: the space is an axis, and each trial's configuration is its own space's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution

from lungtune import catalog
from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History, Objective
from lungtune.errors import SpaceError
from lungtune.search import sampler


@pytest.fixture(scope="module")
def both() -> SearchSpace:
    return catalog.space("clip_lora,clip_head", "demo")


def test_the_space_is_an_axis_and_the_longest_fidelity_counts(both: SearchSpace) -> None:
    assert both.axes == {SPACE: CategoricalDistribution(["clip_lora", "clip_head"])}
    assert (both.name, both.family) == ("clip_lora-clip_head", "clip_lora + clip_head")
    assert both.fidelity == catalog.space("clip_head", "demo").fidelity
    assert both.trials == 64
    assert [point[SPACE] for point in both.start] == ["clip_lora", "clip_head"]


def test_value_round_trips_through_the_journal(both: SearchSpace) -> None:
    assert SearchSpace.from_dict(both.to_dict()) == both


@pytest.mark.parametrize("number", range(6))
def test_a_trial_is_a_whole_configuration_of_one_space(both: SearchSpace, number: int) -> None:
    history = History([{"event": "study", "space": both.to_dict()}])
    suggested = sampler.suggest(both, history, 0, number)
    name = suggested.params[SPACE]
    member = both.of(suggested.params)
    assert member.name == name
    assert suggested.sampled.keys() == {SPACE, *member.axes}
    assert suggested.sampled.keys() == suggested.distributions.keys()
    configuration = both.configuration(suggested.params)
    assert (configuration.family, configuration.base) == (member.family, member.base)
    assert configuration.params.keys() == {*member.fixed, *member.axes}
    assert suggested.origin == ("start" if number < 2 else "random" if number % 3 == 2 else "sampler")
    assert sampler.suggest(both, history, 0, number) == suggested


def test_every_space_has_its_turns_before_any_is_preferred() -> None:
    """Its start points come first; only its very first is never stopped."""
    space = catalog.space("convnext_full,clip_head,res_unet", "demo")
    history = History([{"event": "study", "space": space.to_dict()}])
    suggested = [sampler.suggest(space, history, 0, number) for number in range(9)]
    assert [m.params[SPACE] for m in suggested] == ["convnext_full", "clip_head", "res_unet"] * 3
    assert [m.origin for m in suggested[:3]] == ["start"] * 3
    assert "start" not in [m.origin for m in suggested[3:]]
    assert (suggested[0].params["lr"], suggested[3].params["lr"]) == (0.1, 1e-3)
    assert [suggested[i].params["lambda2"] for i in (2, 5, 8)] == [0.01, 0.0, 0.01]
    few = dataclasses.replace(space, trials=4)
    assert sampler.suggest(few, history, 0, 3).origin == "sampler", "four trials: one each, then the choice is free"


def test_suggestions_of_a_space_learn_from_its_own_trials(both: SearchSpace) -> None:
    """The other space's scores affect only the choice of the space."""
    history = History([{"event": "study", "space": both.to_dict()}])
    for number in range(40):
        params = sampler.suggest(both, history, 1, number)
        score = 0.9 if params.params[SPACE] == "clip_head" else 0.1
        fields = ("params", "sampled", "distributions", "origin")
        reported = {name: getattr(params, name) for name in fields}
        history.apply({"event": "trial", "trial": number, "seed": 0, **reported})
        report = {"fidelity": 9.0, "samples": 9, "checkpoint": "x", "time": 0.0}
        history.apply({"event": "report", "trial": number, "metrics": {"macro_f1": score}, **report})
        history.apply({"event": "end", "trial": number, "state": "COMPLETE"})
    late = [history.trials[n].params[SPACE] for n in range(20, 40) if history.trials[n].origin == "sampler"]
    assert late.count("clip_head") > 0.7 * len(late)


def test_set_reaches_all_matching_spaces_or_the_named_one() -> None:
    space = catalog.space("clip_lora,clip_head", "demo", {"clip_lora.lr": 1e-3, "trials": 5, "hidden": 64})
    lora, head = space.members
    assert lora.fixed["lr"] == 1e-3
    assert "lr" in head.axes
    assert head.fixed["hidden"] == 64
    assert space.trials == 5


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ("clip_lora,clip_lora", {}, "each space may be named once, but got 'clip_lora' twice"),
        ("clip_lora,clip_haed", {}, "did you mean 'clip_head'"),
        ("clip_lora,clip_head", {"hiden": 4}, "--set hiden=4: 'hiden' can't be set.*did you mean 'hidden'"),
        ("clip_lora,clip_head", {"clip_head.lr": -1.0}, "--set clip_head.lr=-1.0: lr >= 1e-07 must hold"),
        ("clip_lora,clip_head", {"clip_lora.hidden": 4}, "--set clip_lora.hidden=4: 'hidden' can't be set"),
        ("clip_head,clip_lora", {"hiden": 4, "hidden": 8}, "--set hiden=4: 'hiden' can't be set"),
        (
            "resnet50_full,conformer_full",
            {"image_size": 16},
            "--set image_size=16: in conformer_full, image_size >= 32 must hold, but got 16",
        ),
    ],
)
def test_mistakes_are_reported(names: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=f"(?i){message}"):
        catalog.space(names, "demo", settings)


def test_scores_of_different_objectives_are_not_compared(tmp_path: Path) -> None:
    file = tmp_path / "losses.yaml"
    file.write_text(catalog.spaces()["clip_head"].read_text().replace("objective: macro_f1", "objective: nll", 1))
    expected = (
        r"spaces searched together must have one objective, "
        r"but got classification\.macro_f1 \(clip_lora\), classification\.nll \(losses\)\."
    )
    with pytest.raises(SpaceError, match=expected):
        catalog.space(f"clip_lora,{file}", "demo")
    assert catalog.space(f"clip_lora,{file}", "demo", {"objective": "ece"}).objective == Objective("ece", "min")


def test_a_list_in_the_base_is_an_axis_of_its_own_kind(tmp_path: Path) -> None:
    text = catalog.spaces()["clip_head"].read_text()
    file = tmp_path / "sizes.yaml"
    file.write_text(text.replace("image_size: 224, views: 4", "image_size: [224, 448], views: 4"))
    space = catalog.space(str(file))
    assert next(iter(space.axes)) == "image_size"
    assert [base["image_size"] for _, base in space.bases] == [224, 448]
    suggested = sampler.suggest(space, History([{"event": "study", "space": space.to_dict()}]), 0, 0)
    assert suggested.params["image_size"] == 224, "a start point that does not name it has the default"
    configuration = space.configuration({**suggested.params, "image_size": 448})
    assert configuration.base["image_size"] == 448
    assert "image_size" not in configuration.params
    with pytest.raises(SpaceError, match="image_size takes a value or a list of choices, not a range"):
        catalog.space("clip_head", "full", {"image_size": {"low": 32, "high": 64}})


def test_fixed_base_setting_applies_to_start_points() -> None:
    """Else the search would load the weights of an excluded model."""
    space = catalog.space("convnext_full", "full", {"model": "convnext_small"})
    assert [base["model"] for _, base in space.bases] == ["convnext_small"]
    suggested = sampler.suggest(space, History([{"event": "study", "space": space.to_dict()}]), 0, 0)
    assert space.configuration(suggested.params).base["model"] == "convnext_small"
    assert suggested.params["lr"] == 0.1, "the rest of the start point stays"


def test_start_point_without_a_base_setting_gets_a_choice(tmp_path: Path) -> None:
    """Its default need not be among them, nor on this machine."""
    text = catalog.spaces()["vit_lora"].read_text()
    file = tmp_path / "weights.yaml"
    file.write_text(text.replace("weights: default", "weights: [one, two]", 1))
    for space in (catalog.space(str(file)), catalog.space("vit_lora", "full", {"weights": ["one", "two"]})):
        assert [base["weights"] for _, base in space.bases] == ["one", "two"]
        suggested = sampler.suggest(space, History([{"event": "study", "space": space.to_dict()}]), 0, 0)
        assert suggested.params["weights"] == "one"


def test_note_of_a_setting_names_its_space() -> None:
    space = catalog.space("clip_lora,clip_head", "demo", {"clip_lora.batch_size": 8})
    assert space.notes == ("clip_lora: batch_size is fixed at 8 in every trial; start point 1 had 4.",)
