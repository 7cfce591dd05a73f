"""Frame of a retraining for any task: sections, seeds, comparison, other tasks, test set, files."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lungtune.core.task import Metric
from lungtune.errors import SpaceError, TrialError
from lungtune.retraining import controls
from lungtune.retraining.frame import Options, Retraining
from lungtune.tasks.classification import METRICS, Classification
from lungtune.tasks.segmentation import Segmentation
from tests.unit.retraining import fakes


class Regression(Segmentation):
    """A user's task: one number a case, less is better; only the required members of ``Task``."""

    name = "regression"
    metrics = {"iou": Metric("min", "an error"), "dice": Metric("max", "unused")}  # noqa: RUF012
    headline = ()

    def baselines(self, dataset, part=None):
        return {}


BOTH = (Classification(), Segmentation())


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    return fakes.install(monkeypatch)


def retrained(folder, tasks, objective=None, test=False, **options):
    family = fakes.FakeFamily(*tasks)
    space, origin = fakes.recipe(family, objective)
    kind = family.task(space.objective.task).retraining() or Retraining
    one = kind(Path("some.yaml"), space, origin, Options(test=test, **options), family)
    one.open(fakes.inspection(), folder)
    one.train()
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    one.weights(folder / "weights")
    content = one.content()
    if test:
        one.before_test()
        one.score(content)
    one.write(content)
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(content))
    return one, content, (folder / "report.md").read_text()


def test_segmentation_is_retrained_by_the_plain_frame(tmp_path):
    one, content, words = retrained(tmp_path, (Segmentation(),), test=True)
    assert type(one) is Retraining
    assert content["task"] == "segmentation"
    part = content["validation"]
    assert part["metrics"]["dice"]["value"] == pytest.approx(content["runs"][0]["value"])
    assert part["metrics"]["dice"]["low"] < part["metrics"]["dice"]["value"] < part["metrics"]["dice"]["high"]
    assert part["baselines"]["mean mask"]["dice"] == 1.0
    assert (part["cases"], part["patients"]) == (60, 30)
    assert content["reproduction"]["tolerance"] == pytest.approx(2 / 60)
    assert content["reproduction"]["reproduced"] == "yes"
    assert "| metric | recipe | mean mask |" in words
    assert content["test"]["metrics"]["iou"]["value"] < content["test"]["metrics"]["dice"]["value"]
    assert content["runs"][0]["test"] == pytest.approx(content["test"]["metrics"]["dice"]["value"])
    assert "dice" in one.text(content)
    assert (tmp_path / "test_report.json").exists()
    assert (tmp_path / "weights" / "weights.txt").read_text() == "0.8"


def test_dice_of_a_two_task_family_is_an_objective(tmp_path):
    """The class metrics stand beside it."""
    _, content, words = retrained(tmp_path, BOTH, "segmentation.dice")
    assert content["reproduction"]["metric"] == "dice"
    assert set(content["validation"]["measures"]) == set(METRICS)
    assert content["validation"]["measures"]["macro_f1"]["cases"] == 60
    assert "| macro_f1 | 60 | 0." in words


def test_class_report_includes_dice(tmp_path):
    one, content, words = retrained(tmp_path, BOTH)
    assert content["task"] == "classification"
    measures = content["validation"]["measures"]
    assert set(measures) == {"dice", "iou"}
    assert measures["dice"]["cases"] == 45
    assert measures["dice"]["value"] == pytest.approx(content["runs"][0]["metrics"]["dice"])
    assert "| dice | 45 | 0." in words
    assert "dice" in one.text(content)


def test_obstacle_to_black_lungs_is_reported(tmp_path):
    one, _, _ = retrained(tmp_path, (Classification(),))
    part = fakes.part("test")
    predicted = {"classification": {"probabilities": np.full((len(part), 2), 0.5)}}
    one._dark = SimpleNamespace(problem="no training image of viral has a lung mask")
    result = one.section("test", part, predicted)["baselines"][controls.BLACKOUT]
    assert result == {"computed": False, "sentence": one._dark.problem}


def test_measure_without_cases_has_no_value(tmp_path):
    one, _, _ = retrained(tmp_path, BOTH)
    part = fakes.part("validation")
    predicted = {"segmentation": dict.fromkeys(("dice", "iou"), np.full(len(part), np.nan))}
    assert one.measures(part, predicted)["dice"] == {
        "value": None,
        "low": None,
        "high": None,
        "level": 0.95,
        "cases": 0,
    }


def test_dice_comparison_includes_classes(tmp_path):
    one, content, words = retrained(tmp_path, BOTH, "segmentation.dice", test=True, seeds=3, compare="skill=0,0.5,0.8")
    result = content["effect"]
    assert (result["axis"], result["control"], result["metric"], result["left_out"]) == ("skill", 0.0, "dice", 3)
    assert [(row["value"], row["seed"]) for row in result["runs"]] == [
        (value, seed) for value in (0.0, 0.5, 0.8) for seed in (4, 5)
    ]
    for name in ("validation", "test"):
        effect = result[name]["effect"]
        assert (effect["helps"], effect["best"], effect["classes"]) == (True, 0.8, {})
        last = result[name]["values"][-1]
        assert list(last["measures"]) == ["macro_f1", *Classification.headline]
    own = {run["seed"]: run["test"] for run in content["runs"]}
    assert [row["test"] for row in result["runs"][-2:]] == [own[4], own[5]]
    assert all(row["test"] is not None for row in result["runs"])
    assert result["confirmed"].startswith("The value that was best on validation, 0.8, has a gain of 0.7")
    assert "## Effect of skill" in words
    assert "skill helps" in one.text(content)


def test_class_comparison_includes_dice(tmp_path):
    _, content, words = retrained(tmp_path, BOTH, compare="skill=0.4")
    effect = content["effect"]["validation"]
    assert set(effect["effect"]["classes"]) == set(fakes.CLASSES)
    assert "| skill | macro_f1 | gain over 0.4 | seeds above | dice | iou |" in words
    control, own = effect["values"]
    assert own["measures"]["dice"] == content["validation"]["measures"]["dice"]
    assert control["measures"]["dice"]["value"] < own["measures"]["dice"]["value"]


def test_an_objective_that_is_minimised_gains_by_less(tmp_path):
    _, content, _ = retrained(tmp_path, (Regression(),), compare="skill=0.2,0.8")
    effect = content["effect"]["validation"]
    assert effect["effect"]["metric"] == "iou"
    assert effect["effect"]["harms"]  # the recipe's 0.8 has the larger error
    assert content["validation"]["baselines"] == {}


def test_two_tasks_with_the_same_metric_names_stay_apart(tmp_path):
    _, content, _ = retrained(tmp_path, (Segmentation(), Regression()), "regression.iou")
    assert content["reproduction"]["metric"] == "regression.iou"
    assert set(content["validation"]["metrics"]) == {"iou", "dice"}
    assert set(content["validation"]["measures"]) == {"dice", "iou"}
    assert content["runs"][0]["value"] == content["runs"][0]["metrics"]["regression.iou"]


def test_several_seeds_have_a_spread_on_both_parts(tmp_path):
    _, content, words = retrained(tmp_path, (Segmentation(),), test=True, seeds=3)
    values = [run["value"] for run in content["runs"]]
    assert content["spread"] == {"mean": pytest.approx(np.mean(values)), "sd": pytest.approx(np.std(values, ddof=1))}
    assert content["test_spread"]["mean"] == pytest.approx(np.mean([run["test"] for run in content["runs"]]))
    assert "| seed | validation dice | test |" in words


def test_classifier_report_has_figures_tables_and_controls(tmp_path, opened):
    one, content, words = retrained(tmp_path, (Classification(),), test=True)
    files = {path.name for path in tmp_path.iterdir()}
    for name in ("validation", "test"):
        assert {f"{name}.csv", f"{name}_confusion_matrix.png", f"{name}_roc.png"} <= files
    rows = (tmp_path / "test.csv").read_text().splitlines()
    assert rows[0] == "case_id,label,normal,viral"
    assert len(rows) == 61
    assert json.loads((tmp_path / "weights" / "temperature.json").read_text())["fitted_on"] == "validation"
    result = content["test"]["baselines"]
    assert result["metadata only"]["computed"]
    assert result["lungs blacked out"]["computed"]
    assert (result["lungs blacked out"]["cases"], result["lungs blacked out"]["left_out"]) == (45, 15)
    assert [(each["test"], each["fields"]) for each in opened] == [
        (False, ["image", "label"]), (False, ["image", "label", "mask"]), (True, ["image", "label", "mask"])
    ]  # fmt: skip
    assert "| lungs blacked out | 45 |" in words
    assert "confusion matrix" in one.text(content)


def test_masks_are_not_opened_without_request(tmp_path, opened):
    _, content, _ = retrained(tmp_path, (Classification(),), test=True, blackout=False)
    assert content["test"]["baselines"]["lungs blacked out"]["sentence"] == controls.LEFT_OUT
    assert not any("mask" in each["fields"] for each in opened)


def test_unscorable_value_is_reported(tmp_path, monkeypatch):
    """The other models keep their scores."""
    predict = fakes.FakeSession.predict

    def broken(session, number, part):
        effect = predict(session, number, part)
        if part.case_ids[0].startswith("test") and session.runs[number].params["skill"] == 0.5:
            effect["segmentation"]["dice"][1] = np.inf
        return effect

    monkeypatch.setattr(fakes.FakeSession, "predict", broken)
    _, content, words = retrained(tmp_path, (Segmentation(),), test=True, compare="skill=0,0.5")
    effect = content["effect"]
    failed = next(row for row in effect["runs"] if row["value"] == 0.5)
    assert failed["failure"].startswith("on the test set: The predictions of dice are not finite")
    assert [row["value"] for row in effect["test"]["values"]] == [0.0, 0.8]
    assert "Failed: skill 0.5 with seed 3" in words


def test_a_score_that_no_case_allows_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(fakes, "part", lambda name, cases=60: fakes.Part.of(label=np.arange(cases) % 2))
    with pytest.raises(TrialError, match="recipe's seed 3 failed: no validation case allows dice"):
        retrained(tmp_path, (Segmentation(),))


def test_unneeded_bank_is_refused(tmp_path):
    with pytest.raises(SpaceError, match="--bank is given, but the recipe uses no synthetic images"):
        retrained(tmp_path, (Segmentation(),), bank=tmp_path)


def test_a_value_that_the_parameter_does_not_take_is_refused(tmp_path):
    with pytest.raises(SpaceError, match="--compare: skill <= 1"):
        retrained(tmp_path, (Segmentation(),), compare="skill=7")
