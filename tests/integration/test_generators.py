"""A generator from search to a bank that classifiers train on, end to end, with a tiny model."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from lungtune import catalog, export, retrain
from lungtune.core import journal, params, yamlfile
from lungtune.data import dataset
from lungtune.data.manifest import Manifest
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.engine import checkpoint
from lungtune.engine.session import Session
from lungtune.errors import DataError, SpaceError
from lungtune.retraining import runs
from lungtune.search import driver
from lungtune.search.backend import Startup
from lungtune.synthesize import generator, synthesize
from lungtune.trainables.sd_lora import FAMILY

ROOT = Path(__file__).parents[2]
DATA = "phantom,n=100,test=30"

SPACE = """
summary: a generator of a few weights
family: sd_lora
trials: 2
fidelity: {{max: 0.9, min: 0.3}}
slots: 2
base: {{weights: {weights}, image_size: 16, samples: 6, judge_weights: {judge}, judge_size: 16}}
params: {{lr: {{low: 1e-3, high: 1e-2, log: true}}, guidance: {{low: 1.0, high: 3.0}}, sampler_steps: 2}}
start:
  - {{lr: 2e-3, guidance: 3.0}}
  - {{lr: 2e-3, guidance: 2.0}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of this module's studies, recipes and banks."""
    folder = tmp_path_factory.mktemp("generators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGTUNE_HOME", str(folder))
        patch.setenv("LUNGTUNE_CACHE", str(folder / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="module")
def recipe(home: Path) -> Path:
    """The best recipe of a search."""
    base = FAMILY.miniature(home / "weights")
    (home / "tiny.yaml").write_text(SPACE.format(weights=base.weights, judge=base.judge_weights))
    words = ["--space", str(home / "tiny.yaml"), "--data", DATA, "--study", "drawn"]
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *words]
    done = subprocess.run(command, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "validation cmmd" in done.stdout
    assert "untrained base" in done.stdout
    assert "lungtune synthesize" in done.stdout
    return export.export("drawn")[0]


@pytest.fixture(scope="module")
def bank(recipe: Path) -> SyntheticBank:
    """Nine images of each class."""
    return SyntheticBank.open(synthesize(recipe, per_class=9))


def test_search_minimises_distance_and_reports_references(home: Path, recipe: Path) -> None:
    summary = json.loads((home / "studies" / "drawn" / "summary.json").read_text())
    values = [trial["value"] for trial in summary["trials"]]
    assert summary["objective"] == {"metric": "cmmd", "mode": "min", "task": "generation"}
    assert summary["best"]["value"] == min(values)
    assert summary["best"]["interval"]["low"] < summary["best"]["value"] < summary["best"]["interval"]["high"]
    events = journal.read(home / "studies" / "drawn" / "journal.jsonl")
    (baselines,) = [event for event in events if event["event"] == "baselines"]
    assert baselines["real"]["cmmd"] < baselines["untrained"]["cmmd"]
    report = next(event for event in events if event["event"] == "report")
    reported = {"cmmd", "coverage", "copies", "cmmd_normal", "recognised", "recognised_normal", "loss"}
    assert reported <= report["metrics"].keys()
    assert {"recognised", "recognised_normal"} <= baselines["real"].keys() & baselines["untrained"].keys()
    assert (home / "studies" / "drawn" / report["checkpoint"]).with_suffix(".png").is_file()


def test_untrained_base_draws_as_the_last_start_point(home: Path, recipe: Path) -> None:
    """The source's captions may be unknown to this base, which would make a reference that is too easy to beat."""
    space, study = catalog.space(str(home / "tiny.yaml")), home / "studies" / "drawn"
    base = params.build(FAMILY.Base, space.base)
    data = dataset.load(study / "split.json", FAMILY.fields, base.image_size)
    session = Session(FAMILY, base, data, space.fidelity, space.objective)
    first, last = (session.references({**space.fixed, **start})["untrained"]["cmmd"] for start in space.start)
    (event,) = [e for e in journal.read(study / "journal.jsonl") if e["event"] == "baselines"]
    assert event["untrained"]["cmmd"] == pytest.approx(last, rel=1e-3)
    assert last != pytest.approx(first, rel=1e-3)


def test_recipe_retrains_to_its_score_and_opens_the_test_set(recipe: Path, tmp_path: Path) -> None:
    done = retrain.retrain(recipe, seeds=2, test=True, out=tmp_path / "out")
    assert done.reproduced == "yes", done.text
    test = done.content["test"]
    assert test["cases"] == len(Manifest.load(recipe.parents[1] / "studies" / "drawn" / "split.json").parts["test"])
    assert test["metrics"]["cmmd"]["low"] < test["metrics"]["cmmd"]["value"]
    assert test["beside"]["real"]["cmmd"]["value"] < test["metrics"]["cmmd"]["value"]
    assert (done.weights / "pytorch_lora_weights.safetensors").is_file()
    assert (done.folder / "samples.png").stat().st_size > 1000
    words = (done.folder / "report.md").read_text()
    assert "near-copies" in words
    assert "a classifier of real images takes " in words
    assert "| recognised_normal | " in words
    assert list(test["recognised"]) == ["recipe", "untrained", "real"]
    with pytest.raises(SpaceError, match="--bank is given, but the recipe uses no synthetic images"):
        retrain.retrain(recipe, bank=tmp_path, out=tmp_path / "out")


def test_a_parameter_of_a_generator_is_compared(recipe: Path, tmp_path: Path) -> None:
    done = retrain.retrain(recipe, compare="guidance=1.0,2.5", out=tmp_path / "out")
    effect = done.content["effect"]
    assert effect["metric"] == "cmmd"
    best = effect["validation"]["effect"]
    arm = next(arm for arm in best["arms"] if arm["value"] == best["best"])
    assert arm["gain"]["value"] == pytest.approx(best["control"]["score"] - arm["score"])
    assert "## Effect of guidance" in (done.folder / "report.md").read_text()


def test_bank_is_reused_extended_and_repaired(bank: SyntheticBank, recipe: Path, capsys: pytest.CaptureFixture) -> None:
    before = {entry.file: entry.sha256 for name in bank.classes for entry in bank.entries(name)}
    assert list(bank.counts().values()) == [9] * len(bank.classes)
    victim = bank.folder / bank.entries(bank.classes[1])[4].file
    victim.write_bytes(victim.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"must be the generated one, but its content has changed"):
        SyntheticBank.open(bank.folder).verify()
    assert synthesize(recipe, per_class=10, classes=[bank.classes[1]]) == bank.folder
    assert "is damaged and is regenerated" in capsys.readouterr().err
    again = SyntheticBank.open(bank.folder)
    again.verify()
    assert again.counts()[bank.classes[1]] == 10
    assert {
        entry.file: entry.sha256 for name in again.classes for entry in again.entries(name)
    }.items() >= before.items()
    assert (bank.folder / "samples.png").stat().st_size > 1000


def test_complete_bank_opens_no_model(
    bank: SyntheticBank, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(type(FAMILY), "backbone", lambda *_: pytest.fail("a model was opened"))
    assert synthesize(recipe, per_class={bank.classes[0]: 3, bank.classes[2]: 9}) == bank.folder
    assert capsys.readouterr().err == ""


def test_a_shipped_generator_draws_the_same_without_training(
    bank: SyntheticBank, home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = (home / "generators").iterdir()
    monkeypatch.setattr(generator, "SHIPPED", tmp_path)
    generator.pack(work, "", tmp_path / f"{work.name}.safetensors")
    shutil.move(work, tmp_path / "trained")
    try:
        monkeypatch.setattr(runs, "train", lambda *_: pytest.fail("a generator was trained"))
        other = SyntheticBank.open(synthesize(recipe, per_class=2, out=tmp_path / "bank"))
        assert [[e.sha256 for e in other.entries(name)] for name in other.classes] == [
            [e.sha256 for e in bank.entries(name)[:2]] for name in bank.classes
        ]
        described = [json.loads((each.folder / "generator.json").read_text()) for each in (bank, other)]
        assert described[0] == described[1]
    finally:
        shutil.rmtree(work)
        shutil.move(tmp_path / "trained", work)


def test_shipped_generator_replaces_an_unfinished_one(bank: SyntheticBank, home: Path, tmp_path: Path) -> None:
    (work,) = (home / "generators").iterdir()
    generator.pack(work, "", tmp_path / "shipped")
    (tmp_path / "work").mkdir()
    first = sorted(work.glob("*.safetensors"))[0]
    shutil.copy(first, tmp_path / "work")
    _, meta = checkpoint.load(first)
    reached = meta["fidelity"]
    assert generator._scores(tmp_path / "work", reached + 0.1) is None
    assert generator.unpack(tmp_path / "shipped", tmp_path / "work")
    assert generator._scores(tmp_path / "work", 0.9) == generator._scores(work, 0.9)
    assert not generator.unpack(tmp_path / "none", tmp_path / "work")


def test_other_weights_in_the_same_folder_make_another_bank(
    bank: SyntheticBank, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bank never holds images of two generators."""
    monkeypatch.setattr(type(FAMILY), "content", lambda *_: "others")
    other = SyntheticBank.open(synthesize(recipe, per_class={bank.classes[0]: 1}))
    assert other.key != bank.key
    with pytest.raises(DataError, match="holds a bank of other synthetic images"):
        synthesize(recipe, per_class=1, out=bank.folder)


def test_images_of_a_class_are_drawn_from_its_caption(bank: SyntheticBank, recipe: Path) -> None:
    captions = {bank.entries(name)[0].caption for name in bank.classes}
    assert len(captions) == len(bank.classes)
    assert bank.generator["recipe"] == recipe.stem
    pixels = [np.asarray(Image.open(bank.folder / bank.entries(name)[0].file)) for name in bank.classes]
    assert all(image.shape == (16, 16) and image.std() > 1 for image in pixels)


def test_bank_requires_a_generator_recipe_and_its_data(recipe: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    text = recipe.read_text()
    other.write_text(text)
    with pytest.raises(DataError, match="must hold the split the recipe was searched on"):
        synthesize(other, data="phantom,n=90,test=30")
    with pytest.raises(SpaceError, match=r"--classes must name classes of the data, but got 'virall'.*viral"):
        synthesize(recipe, classes=["virall"])


def test_without_a_recipe_the_best_comparable_one_is_taken(
    bank: SyntheticBank, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Scores by another CLIP, or of other sizes, have another scale: such a recipe is no candidate."""
    maker = importlib.import_module("lungtune.synthesize.plan")
    monkeypatch.setattr(maker, "DEFAULT", str(home / "tiny.yaml"))
    assert synthesize(data=DATA, profile="full", per_class={bank.classes[0]: 2}) == bank.folder
    assert "the bank is generated with drawn-1" in capsys.readouterr().err
    split = dataset.inspect(DATA, seed=0)
    module = importlib.import_module("lungtune.synthesize")
    assert module.complete(split, {bank.classes[0]: 2}, "full") == bank.folder
    assert module.complete(split, {bank.classes[0]: 9_999}, "full") is None
    monkeypatch.setattr(maker, "DEFAULT", "sd_lora")
    inspection = dataset.inspect(DATA)
    assert maker._best(inspection, maker.default_origin(inspection, "demo", {})) is None


def test_bank_of_another_fold_is_refused(bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Startup, "begin", lambda self, space: None)
    settings: dict[str, Any] = {"synthetic_ratio": 0.05}
    options = driver.Options(
        space="clip_lora", profile="demo", data=DATA, study="fold", seed=5, bank=bank.folder, settings=settings
    )
    with pytest.raises(DataError, match="is from another training fold"):
        driver.run(options, Console(quiet=True))


def test_recipe_file_states_the_direction(recipe: Path) -> None:
    assert "lower is better" in recipe.read_text()
    assert yamlfile.load(recipe)["objective"] == "cmmd"
