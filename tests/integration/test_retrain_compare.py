"""Comparison of a parameter's values: same recipe, same seeds, one opening of the test set."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core import recipe as recipes
from lungtune.core.space import SearchSpace
from lungtune.data import dataset
from lungtune.engine.pack import Pack
from lungtune.errors import CheckpointError, SpaceError, StudyError
from lungtune.export import export, following
from lungtune.report import ablation_report, retrain_report
from lungtune.retrain import retrain
from lungtune.retraining import arms as module
from tests.integration import retrain_study

DROPOUT = "lora_dropout=0,0.1"


@pytest.fixture
def home(tmp_path, monkeypatch):
    return retrain_study.copy(tmp_path / "home", monkeypatch.setenv)


@pytest.fixture
def recipe(home):
    return export("mini", top=1)[0]


def ledger(home):
    path = home / "studies" / "mini" / "ledger.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steps(monkeypatch):
    """Count the trainings' steps, and how many train together at most."""
    step, counted = Pack.step, []

    def watched(pack, slots=None):
        counted.append(len(slots))
        return step(pack, slots)

    monkeypatch.setattr(Pack, "step", watched)
    return counted


def test_values_are_compared_on_both_parts_in_one_opening(home, recipe, monkeypatch):
    together = steps(monkeypatch)
    done = retrain(recipe, seeds=3, test=True, compare=DROPOUT, blackout=False)
    assert max(together) == 3
    effect = done.content["effect"]
    seed = done.content["runs"][0]["seed"]
    assert (effect["axis"], effect["control"], effect["recipe_value"]) == ("lora_dropout", 0.0, 0.1)
    assert effect["left_out"] == seed
    assert [(row["value"], row["seed"]) for row in effect["runs"]] == [
        (0.0, seed + 1), (0.0, seed + 2), (0.1, seed + 1), (0.1, seed + 2)
    ]  # fmt: skip
    mine = {run["seed"]: run for run in done.content["runs"]}
    for row in effect["runs"][2:]:  # the recipe's own runs, not trained again
        assert (row["score"], row["test"]) == (mine[row["seed"]]["value"], mine[row["seed"]]["test"])
    for name, key in (("validation", "score"), ("test", "test")):
        control, own = effect[name]["values"]
        assert control["gain"] is None
        assert control["score"]["mean"] == pytest.approx(np.mean([row[key] for row in effect["runs"][:2]]))
        assert own["gain"]["value"] == pytest.approx(own["score"]["mean"] - control["score"]["mean"])
        assert own["gain"]["low"] <= own["gain"]["value"] <= own["gain"]["high"]
        assert effect[name]["seeds"] == [seed + 1, seed + 2]
    assert [entry["event"] for entry in ledger(home)] == ["opened", "result"]
    assert ledger(home)[0]["recipe"] == done.content["fingerprint"]
    assert ledger(home)[1]["metrics"]["macro_f1"] == done.content["test"]["metrics"]["macro_f1"]["value"]
    assert done.reproduced == "yes"
    assert not (done.folder / "work").exists()
    assert json.loads((done.folder / "report.json").read_text()) == done.content
    words = (done.folder / "report.md").read_text()
    for reported in (words, done.text):
        assert f"Seed {seed} is the searched one: its score with lora_dropout 0.1 was selected" in reported
        assert "so it is left out of this" in reported
        assert "that favours 0.1" in reported
        assert "lora_dropout makes no difference beyond chance" in reported
        assert effect["confirmed"] in reported
    assert "## Effect of lora_dropout" in words
    assert words.count("| 0 (control) | 0.") == 2
    with pytest.raises(StudyError, match="was opened on"):
        retrain(recipe, test=True, compare="lora_dropout=0.2")


def test_interrupted_comparison_repeats_no_training(home, recipe, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(retrain_report, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            retrain(recipe, test=True, compare=DROPOUT, blackout=False)
    folders = {path.parent.parent.name for path in (home / "models").rglob("*.safetensors") if "work" in path.parts}
    assert len(folders) == 2, "each value has its own"
    trained = steps(monkeypatch)
    done = retrain(recipe, test=True, compare=DROPOUT, blackout=False)
    assert not trained
    assert [entry["event"] for entry in ledger(home)] == ["opened", "opened", "result"]
    assert "it counts in this. --seeds 3 or more leave it out." in done.content["effect"]["notes"][0]
    assert "With one seed a side" in done.content["effect"]["test"]["sentence"]


def test_a_damaged_model_of_any_value_opens_no_test_set(home, recipe, monkeypatch):
    train = module.Arms.train

    def damage(arms):
        train(arms)
        for file in arms.others[0].folder.glob("*.safetensors"):
            file.write_bytes(b"torn")

    monkeypatch.setattr(module.Arms, "train", damage)
    with pytest.raises(CheckpointError, match=r"seed \d+, lora_dropout 0 must go on from .* to be scored on the test"):
        retrain(recipe, test=True, compare=DROPOUT, blackout=False)
    assert not ledger(home)


def test_failed_value_is_reported_and_the_rest_compared(home, recipe, monkeypatch):
    """The first of the other values diverges."""
    step, train = Pack.step, module.Arms.train

    def broken(arms):
        with monkeypatch.context() as inner:
            inner.setattr(Pack, "step", lambda p, s=None: step(p, s) | ({0: float("nan")} if 0 in s else {}))
            train(arms)

    monkeypatch.setattr(module.Arms, "train", broken)
    effect = retrain(recipe, compare="lora_dropout=0.9,0,0.1").content["effect"]
    assert "the training loss became nan" in next(run for run in effect["runs"] if run["value"] == 0.9)["failure"]
    assert [row["value"] for row in effect["validation"]["values"]] == [0.0, 0.1]
    assert any(note.startswith("Failed: lora_dropout 0.9 with seed ") for note in effect["notes"])
    effect = retrain(recipe, compare="lora_dropout=0,0.1").content["effect"]
    assert effect["validation"]["problem"].startswith("Not computed: trainings with lora_dropout 0 ")
    assert "Not computed" in ablation_report.markdown(effect)


def test_mistake_is_reported_before_data_are_read(home, recipe, monkeypatch, door):
    monkeypatch.setattr(dataset, "inspect", lambda *_, **__: pytest.fail("the data were read"))
    with pytest.raises(
        SpaceError, match=r"'lora_dropou' is not a parameter of clip_lora\. Did you mean 'lora_dropout'"
    ):
        retrain(recipe, compare="lora_dropou=0,1")
    done = door("retrain", recipe, "--compare", "lora_dropout=7")
    assert (done.code, done.err) == (2, "error: --compare: lora_dropout <= 0.9 must hold, but got 7.0.\n")
    assert not (home / "models").exists()


def unet(home, objective="macro_f1", **params):
    """Write a recipe of a family with masks that trains one by one; its study is not on this machine."""
    family = catalog.family("res_unet")
    base = family.miniature(home / "unet")
    values = {name: spec.default for name, spec in parameters.specs(family.Params).items()}
    space = SearchSpace(
        name="res_unet", family="res_unet", summary="", profile="full", objective=family.objective(objective), seed=3,
        sampler="random", trials=1, fidelity=retrain_study.FIDELITY, base=asdict(base), axes={}, start=(),
        fixed=values | {"lambda2": 0.5, "batch_size": 16, **params}, data=retrain_study.SOURCE,
        inert=parameters.inert(family.Base, family.Params),
    )  # fmt: skip
    split = dataset.inspect(retrain_study.SOURCE, seed=3).manifest.hash
    about = {
        "study": "elsewhere", "study_id": "x1", "trial": 0, "fidelity": 0.5, "split": split, "split_seed": 3,
        "score": {"value": 0.1}, "fingerprint": recipes.fingerprint(space, 0.5, split),
    }  # fmt: skip
    path = home / "mail" / "unet.yaml"
    path.parent.mkdir()
    path.write_text(recipes.dump(space, family, about, "A recipe."))
    return path


def test_class_comparison_also_reports_dice(home, monkeypatch):
    together = steps(monkeypatch)
    monkeypatch.setattr(
        "lungtune.tasks.classification.retraining.ClassificationRetraining.weights", lambda *_: None
    )  # seconds, and the same without a comparison
    path = unet(home)
    done = retrain(path, test=True, compare="lambda2=0,0.5", blackout=False)
    assert set(together) == {1}, "whole networks train one by one"
    for name, cases in (("validation", done.content["validation"]["cases"]), ("test", 36)):
        control, own = done.content["effect"][name]["values"]
        assert control["measures"]["dice"]["value"] is None
        assert own["measures"]["dice"]["cases"] == cases
        assert own["measures"]["dice"] == done.content[name]["measures"]["dice"]
    words = (done.folder / "report.md").read_text()
    assert "| lambda2 | macro_f1 | gain over 0 | seeds above | dice | iou |" in words
    assert (path.parent / "ledger.jsonl").read_text().count('"opened"') == 1


def test_dice_is_compared_as_the_objective(home, monkeypatch):
    """A learning rate of nothing leaves the decoder as it was drawn."""
    monkeypatch.setattr("lungtune.retraining.frame.Retraining.weights", lambda *_: None)
    done = retrain(unet(home, "segmentation.dice", lr=3e-3), compare="lr=1e-7,3e-3")
    effect = done.content["effect"]
    assert (effect["metric"], done.content["task"]) == ("dice", "segmentation")
    control, own = effect["validation"]["values"]
    assert own["score"]["mean"] == pytest.approx(done.content["validation"]["metrics"]["dice"]["value"])
    assert own["gain"]["value"] == pytest.approx(own["score"]["mean"] - control["score"]["mean"])
    assert "macro_f1" in own["measures"]
    assert done.content["validation"]["baselines"]["mean mask"]["dice"] > 0.3
    assert "| metric | recipe | mean mask |" in (done.folder / "report.md").read_text()


def test_a_finished_search_and_an_export_give_the_command(home, recipe):
    assert following("mini", recipe) == [f"lungtune retrain {recipe}"]
    path = unet(home)
    asked = f"lungtune retrain {path} --compare lambda2=0,0.5 --seeds 3"
    assert following("mini", path) == [f"lungtune retrain {path}", asked]
