"""Synthetic images end to end: a study with a bank, its recipe, and the measured effect."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lungtune import catalog
from lungtune.core import journal, synthetic, yamlfile
from lungtune.data import dataset
from lungtune.data.synthetic_bank import Item, SyntheticBank
from lungtune.errors import DataError, SpaceError
from lungtune.export import export, following
from lungtune.retrain import retrain
from lungtune.retraining import runs
from lungtune.retraining.controls import BLACKOUT
from lungtune.search import preparation
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.controller import TrialController

SOURCE = "phantom,n=84,test=36,size=32"
ASKED = "--compare synthetic_images=none,duplicates,generated --seeds 3"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A search of two trials without Ray, one with a bank's images before the real ones; features are kept."""
    home = tmp_path_factory.mktemp("home")
    places = {"LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in places.items():
            patch.setenv(name, value)
        base = catalog.family("clip_head").miniature(home / "tiny")
        manifest = dataset.inspect(SOURCE, seed=3).manifest
        about = {"key": "ab" * 16, "generator": {"recipe": "sd-1.yaml"}, "size": 16, "seed": 0}
        bank = SyntheticBank.create(home / "bank", classes=manifest.classes, train_hash=manifest.train_hash, **about)
        random = np.random.default_rng(0)
        bank.add([Item(*each, "", 0, random.integers(0, 256, (16, 16), np.uint8)) for each in bank.missing(24)])
        space = home / "mixed.yaml"
        space.write_text(
            "summary: head\nfamily: clip_head\nsampler: random\ntrials: 2\nfidelity: {max: 1.5, min: 0.5, eta: 3}\n"
            f"base: {{weights: {base.weights}, image_size: {base.image_size}, views: 2}}\n"
            "params: {batch_size: 8, synthetic_ratio: [0, 0.5], synthetic_use: pretrain, augmentation: 1}\n"
            "start:\n  - {synthetic_ratio: 0.5}\n  - {synthetic_ratio: 0}\n"
        )
        options = preparation.Options(space=str(space), data=SOURCE, study="mixed", seed=3, bank=bank.folder)
        study, resolved, _ = preparation.new(options, Console(quiet=True), lambda space: None)
        controller, host = TrialController(study, resolved, 3), PackHost(1, None)
        host.open(str(study.folder))
        while (trial := controller.next()) is not None:
            while controller.report(trial.number, host.train(asdict(trial), False)):
                pass
            host.leave(trial.number)
        study.release()
    return {"home": home, "bank": bank, "events": journal.read(study.journal_path)}


@pytest.fixture
def home(searched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study's home; caches and bank stay shared."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(searched["home"] / "cache"))
    shutil.copytree(searched["home"] / "studies", tmp_path / "home" / "studies")
    return tmp_path / "home"


@pytest.fixture
def recipe(home: Path) -> Path:
    """The recipe of the trial with synthetic images, whatever its rank."""
    return next(path for path in export("mixed", top=2) if "synthetic_ratio: 0.5" in path.read_text())


def test_journal_names_the_bank_and_trials_keep_their_length(searched: dict[str, Any]) -> None:
    begun = next(entry for entry in searched["events"] if entry["event"] == "study")
    bank = begun["data"]["bank"]
    assert (bank["path"], bank["key"]) == (str(searched["bank"].folder), searched["bank"].key)
    assert searched["bank"].first(bank["counts"]).hash == bank["hash"]
    reports = [entry for entry in searched["events"] if entry["event"] == "report"]
    lengths = {n: [(r["fidelity"], r["samples"]) for r in reports if r["trial"] == n] for n in (0, 1)}
    real = begun["data"]["counts"]["train"]
    assert lengths[0] == lengths[1] == [(level, 8 * -(-round(level * real) // 8)) for level in (0.5, 1.0, 1.5)]


def test_recipe_with_a_bank_retrains_to_its_score(
    searched: dict[str, Any], home: Path, recipe: Path, tmp_path: Path
) -> None:
    assert following("mixed", recipe)[1] == f"lungtune retrain {recipe} {ASKED}"
    kept = yamlfile.load(recipe)["provenance"]["bank"]
    assert kept["key"] == searched["bank"].key
    (plain,) = (path for path in export("mixed", top=2) if path != recipe)
    assert "bank" not in yamlfile.load(plain)["provenance"]
    assert retrain(plain, blackout=False).reproduced == "yes"
    with pytest.raises(SpaceError, match="--bank is given, but the recipe uses no synthetic images"):
        retrain(plain, bank=searched["bank"].folder)
    moved = shutil.copytree(searched["bank"].folder, tmp_path / "moved")
    recipe.write_text(recipe.read_text().replace(kept["path"], "/lost/bank"))
    with pytest.raises(DataError, match=r"must be at /lost/bank, but is not there; .* takes --bank DIR"):
        retrain(recipe)
    done = retrain(recipe, bank=moved)
    assert done.reproduced == "yes"
    assert done.content["unasked"] == f"lungtune retrain {recipe} {ASKED}"
    reported = (done.folder / "report.md").read_text()
    assert (
        "The effect of synthetic images was not measured here. This command measures it: `lungtune retrain" in reported
    )
    (moved / "bank.json").write_text((moved / "bank.json").read_text().replace("abab", "cdcd"))
    with pytest.raises(DataError, match="must be the bank of synthetic images abababababab, but is cdcdcdcdcdcd"):
        retrain(recipe, bank=moved)


def test_both_controls_are_compared_on_the_same_seeds(home: Path, recipe: Path) -> None:
    done = retrain(recipe, seeds=3, compare=synthetic.QUESTION, test=True, blackout=False)
    effect = done.content["effect"]
    assert (effect["control"], effect["recipe_value"]) == ("none", "generated")
    assert [row["value"] for row in effect["validation"]["values"]] == ["none", "duplicates", "generated"]
    assert done.content["unasked"] == ""
    for name in ("validation", "test"):
        verdict = effect[name]["synthetic"]
        assert set(verdict["gains"]) == {"none", "duplicates"}
        assert verdict["helped"] is False  # noise teaches nothing about lungs
        assert verdict["sentence"].startswith("synthetic images did not help here: no better than")
    words = (done.folder / "report.md").read_text()
    assert "## Synthetic images" in words
    assert "On test, synthetic images did not help here" in words


def test_blackout_control_trains_without_synthetic_images(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synthetic images have no masks to blacken: as many real ones, blackened, take their place."""
    seen, true = [], runs.train

    def watched(session: Any, space: Any, each: Any, *rest: Any) -> None:
        seen.append((session.dataset.synthetic is None, dict(each[0].changed)))
        true(session, space, each, *rest)

    monkeypatch.setattr(runs, "train", watched)
    done = retrain(recipe, test=True)
    assert seen == [(False, {}), (True, {"synthetic_images": "duplicates"})]
    assert done.content["test"]["baselines"][BLACKOUT]["computed"]
