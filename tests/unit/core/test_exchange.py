"""Families and spaces that are exchanged to the task that the data have targets of."""

from __future__ import annotations

from dataclasses import fields

import pytest

from lungtune import catalog
from lungtune.core import recipe
from lungtune.core.params import build, specs
from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError

LABELS = frozenset({"labels", "mask", "text"})
CLASSES = frozenset({"label", "mask", "text"})


def fitted(names: str, traits: frozenset[str] = LABELS, profile: str = "demo", **settings: object) -> SearchSpace:
    return catalog.fitted(catalog.space(names, profile, settings), traits)


@pytest.mark.parametrize("name", [n for n in catalog.families() if n != "sd_lora"])
def test_every_classifier_trains_on_labels_without_an_edit(name):
    before, after = catalog.family(name), catalog.family(name, "multilabel")
    assert [task.name for task in after.tasks] == ["multilabel", *(task.name for task in before.tasks[1:])]
    assert after.tasks[0].predicted == before.tasks[0].predicted
    assert [field.kind for field in after.fields if field.kind.startswith("label")] == ["labels"]
    assert not any(n.startswith(("synthetic_", "class_weighting")) for n in specs(after.Params))
    assert {"uncertain", "positive_weighting", "lr", "batch_size"} <= specs(after.Params).keys()
    assert [task.name for task in catalog.family(name).tasks] == [task.name for task in before.tasks]


def test_a_family_is_exchanged_once():
    assert catalog.family("res_unet", "multilabel") is catalog.family("res_unet", "multilabel")


def test_a_generator_is_not_exchanged():
    assert catalog.family("sd_lora", "multilabel") is catalog.family("sd_lora")
    space = catalog.space("sd_lora", "demo")
    assert catalog.fitted(space, LABELS) is space


def test_parameters_keep_their_order_types_and_bounds():
    before, after = (catalog.family("resnet50_full", task).Params for task in ("", "multilabel"))
    names = [f.name for f in fields(before) if f.name in specs(after)]
    assert [f.name for f in fields(after)] == [*names, "uncertain", "positive_weighting"]
    assert specs(after)["lr"] == specs(before)["lr"]
    params = build(after, {"lr": 1e-3, "uncertain": "ones"})
    assert (params.lr, params.uncertain, params.positive_weighting) == (1e-3, "ones", "none")
    with pytest.raises(SpaceError, match="'class_weighting' is not a parameter of this family"):
        build(after, {"class_weighting": "sqrt"})


def test_the_space_takes_the_tasks_default_objective_and_says_so():
    space = fitted("clip_lora")
    assert space.objective == catalog.family("clip_lora", "multilabel").objective("multilabel.macro_auroc")
    (note,) = space.notes
    assert "objective macro_auroc instead of macro_f1" in note
    assert "class_weighting, synthetic_ratio are left out, being of classes" in note
    assert "positive_weighting is searched" in note
    assert not {"class_weighting", "synthetic_ratio", "uncertain"} & space.axes.keys()
    assert all("class_weighting" not in point and point["positive_weighting"] == "none" for point in space.start)
    assert space.fixed["uncertain"] == "ignore"


def test_a_metric_that_both_tasks_have_stays():
    assert fitted("vit_b16_head", objective="macro_ap").objective.full == "multilabel.macro_ap"


def test_uncertain_is_searched_where_labels_are_open():
    space = fitted("resnet50_full", LABELS | {"uncertain"})
    assert space.axes["uncertain"].choices == ("ignore", "zeros", "ones", "smooth")
    assert space.start[0]["uncertain"] == "ignore"


def test_settings_of_the_task_are_taken_without_the_data():
    space = catalog.space("resnet50_full", "demo", {"uncertain": ["ones", "zeros"], "objective": "macro_ap"})
    assert space.objective.full == "multilabel.macro_ap"
    assert space.axes["uncertain"].choices == ("ones", "zeros")
    pruned = catalog.fitted(space, LABELS)
    assert "uncertain" not in pruned.axes
    assert "uncertain is not searched" in pruned.notes[-1]
    assert catalog.fitted(space, LABELS | {"uncertain"}) == space


def test_a_full_objective_exchanges_the_space():
    space = catalog.space("clip_lora", "demo", {"objective": "multilabel.macro_ap", "positive_weighting": "balanced"})
    assert space.objective.full == "multilabel.macro_ap"
    assert space.fixed["positive_weighting"] == "balanced"


def test_several_spaces_are_exchanged_together():
    space = fitted("clip_lora,resnet50_full")
    assert space.objective.full == "multilabel.macro_auroc"
    assert all(member.objective == space.objective for member in space.members)
    assert len(space.notes) == 2
    assert fitted("clip_lora,resnet50_full", positive_weighting="sqrt").members[1].fixed["positive_weighting"] == "sqrt"


def test_classes_need_no_exchange():
    space = catalog.space("clip_lora", "demo")
    assert catalog.fitted(space, CLASSES) is space


def test_an_objective_of_another_task_is_refused():
    with pytest.raises(
        SpaceError, match=r"objective must be a metric of multilabel .*got segmentation\.dice; leave it"
    ):
        fitted("res_unet", objective="dice")


def test_an_exchanged_space_survives_the_journal():
    space = fitted("res_unet", LABELS | {"uncertain"})
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_a_recipe_is_read_back_for_its_task(tmp_path):
    space = fitted("vit_b16_head", LABELS | {"uncertain"})
    family = catalog.family(space.family, space.objective.task)
    params = {**space.fixed, **space.start[0], "uncertain": "smooth"}
    plain = {**vars(space), "axes": {}, "fixed": params, "start": (), "data": "phantom", "seed": 1, "notes": ()}
    text = recipe.dump(SearchSpace(**plain), family, {}, "")
    assert 'objective: "multilabel.macro_auroc"' in text
    (tmp_path / "recipe.yaml").write_text(text)
    again = catalog.space(str(tmp_path / "recipe.yaml"))
    assert again.objective == space.objective
    assert again.fixed["uncertain"] == "smooth"
    assert "class_weighting" not in again.fixed
