"""Lung-free controls next to a test score; temperature and thresholds are fitted on validation."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lungtune import catalog, summary
from lungtune.core.fields import MASK
from lungtune.core.study import Study
from lungtune.data import dataset
from lungtune.data.dataset import Part
from lungtune.export import export
from lungtune.retrain import retrain
from lungtune.retraining import controls, runs
from lungtune.tasks.classification import calibration
from tests.integration import retrain_study


def with_masks(part, every=5):
    """Lungs are the middle half of an image; of ``every`` cases the first has no mask."""
    has = np.arange(len(part)) % every > 0
    masks = np.zeros(part["image"].shape, np.uint8)
    side = masks.shape[-1] // 4
    masks[has, :, side:-side, side:-side] = 255
    return Part({**part.fields, "mask": masks}, {**part.known, "mask": has}, part.patients, part.case_ids)


@pytest.fixture
def home(tmp_path, monkeypatch):
    return retrain_study.copy(tmp_path / "home", monkeypatch.setenv)


@pytest.fixture
def recipe(home):
    return export("mini", top=1)[0]


@pytest.fixture
def masks(monkeypatch):
    """Use data with masks; return the arguments of every opening."""
    load, asked = dataset.load, []

    def opened(data, fields, size, *, test=False, bank=None):
        wanted = MASK in fields
        asked.append({"test": test, "masks": wanted})
        result = load(data, [field for field in fields if field != MASK], size, test=test)
        if not wanted:
            return result
        parts = {name: getattr(result, name) for name in ("train", "validation", "test")}
        return dataclasses.replace(result, **{name: part and with_masks(part) for name, part in parts.items()})

    monkeypatch.setattr(dataset, "load", opened)
    monkeypatch.setattr(controls, "masked", lambda inspection: True)
    return asked


def test_the_columns_of_files_follow_the_parts(home, recipe):
    inspection = dataset.inspect(retrain_study.SOURCE, seed=3)
    entries = inspection.manifest.parts["validation"]
    result = controls.outside(inspection, "validation")
    assert result.keys() == {"width", "height", "mode", "type"}
    facts = inspection.facts.loc[entries.path[0]]
    assert {name: column[0] for name, column in result.items()} == {name: facts[name] for name in result}
    assert {len(column) for column in result.values()} == {len(entries)}
    assert result["width"].dtype.kind == "i"


def test_black_lungs_train_before_the_test_set_opens(home, recipe, masks, capsys):
    done = retrain(recipe, test=True)
    assert masks == [{"test": False, "masks": False}, {"test": False, "masks": True}, {"test": True, "masks": True}]
    result = done.content["test"]["baselines"]["lungs blacked out"]
    assert result["computed"]
    assert (result["cases"], result["left_out"]) == (28, 8)
    assert result["gain"]["value"] == pytest.approx(result["model"]["value"] - result["baseline"]["value"])
    assert result["sentence"].startswith("The same recipe with the lungs blacked out scores 0.")
    assert "8 cases are left out of this." in result["sentence"]
    assert "trained once more, on images with black lungs" in capsys.readouterr().err
    words = (done.folder / "report.md").read_text()
    assert "| lungs blacked out | 28 |" in words
    assert "| metadata only | 36 |" in words
    assert "The same recipe with the lungs blacked out scores" in done.text
    assert done.reproduced == "yes"
    assert not (done.folder / "work").exists()


def test_failed_control_does_not_fail_the_report(home, recipe, masks, monkeypatch):
    train = runs.train

    def broken(session, space, each, fidelity, what=""):
        train(session, space, each, fidelity, what)
        if "black" in what:
            each[0].failure = "the training loss became nan"

    monkeypatch.setattr(runs, "train", broken)
    result = retrain(recipe, test=True).content["test"]["baselines"]["lungs blacked out"]
    assert result["sentence"] == "Not computed: the training with black lungs failed: the training loss became nan."


def test_report_gives_reason_for_missing_mask_control(home, recipe, masks, monkeypatch):
    sentence = retrain(recipe, test=True, blackout=False).content["test"]["baselines"]["lungs blacked out"]["sentence"]
    assert sentence == controls.LEFT_OUT
    assert not any(each["masks"] for each in masks)
    for ledger in (home / "studies" / "mini" / "ledger.jsonl", home / "openings.jsonl"):
        ledger.unlink()
    monkeypatch.setattr(controls, "masked", lambda inspection: False)
    part = retrain(recipe, test=True, out=home / "again").content["test"]
    assert part["baselines"]["lungs blacked out"] == {"computed": False, "sentence": controls.NO_MASKS}
    assert part["baselines"]["metadata only"]["computed"]
    assert "masks=DIR" in (home / "again" / "report.md").read_text()


def test_exported_temperature_is_from_validation(home, recipe):
    done = retrain(recipe, test=True)
    content = json.loads((done.weights / "temperature.json").read_text())
    for part in ("validation", "test"):
        assert done.content[part]["calibration"]["temperature"] == content["temperature"]
        assert done.content[part]["fitted_here"] == (part == "validation")
    rows = np.loadtxt(done.folder / "validation.csv", delimiter=",", skiprows=1, dtype=str)
    probabilities = rows[:, 2:].astype(float)
    labels = np.array([done.content["data"]["classes"].index(name) for name in rows[:, 1]])
    again = calibration.fit(labels, probabilities / probabilities.sum(axis=1, keepdims=True))
    assert again.value == pytest.approx(content["temperature"], rel=1e-3)
    points = [[row["threshold"] for row in done.content[part]["operating"]] for part in ("validation", "test")]
    assert points[0] == points[1]
    assert len(points[0]) == len(done.content["data"]["classes"]) + 1  # abnormal


def test_summary_reports_a_collapsed_best_trial(home):
    study = Study.open("mini")
    patients = dataset.load(study.split_path, catalog.family("clip_lora").fields, 32).validation.patients
    best = summary.build(study, patients)["best"]
    assert best["collapsed"] == ""
    for path in study.folder.glob("checkpoints/*/*.safetensors"):
        tensors = load_file(path)
        tensors["probabilities"] = np.tile(np.eye(6, dtype=np.float32)[2], (len(patients), 1))
        save_file(tensors, path)
    summarised = summary.build(study, patients)["best"]["collapsed"]
    assert summarised == "The model has collapsed: it predicts 'covid' for 100.0 % of the cases."


def test_script_passes_no_blackout(home, recipe, masks, door):
    assert controls.LEFT_OUT in door("retrain", recipe, "--test", "--no-blackout").out
