"""One search over two spaces: leaderboard, recipes of either family, retraining with masks."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lungtune.errors import DataError
from lungtune.search import driver
from lungtune.search.backend import Startup

ROOT = Path(__file__).parents[2]


def script(name: str, *words: str, home: Path) -> tuple[int, str, str]:
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache"), "COLUMNS": "200"}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> dict[str, Any]:
    home, out = tmp_path_factory.mktemp("home"), io.StringIO()
    furnish(home / "mlflow" / "state" / "mlflow.db")
    options = driver.Options(
        space="res_unet,resnet152_head", data="phantom,n=100,test=30", profile="demo", trials=4, study="both",
        settings={"fidelity.max": 1.2, "fidelity.min": 0.3},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("LUNGTUNE_HOME", str(home))
        patch.setenv("LUNGTUNE_CACHE", str(home / "cache"))
        code = driver.run(options, Console(file=out, width=200))
    summary = home / "studies" / "both" / "summary.json"
    return {"home": home, "code": code, "out": out.getvalue(), "summary": json.loads(summary.read_text())}


def test_leaderboard_has_each_space_and_its_start_point(searched: dict[str, Any]) -> None:
    assert searched["code"] == 0
    trials, board = searched["summary"]["trials"], searched["summary"]["leaderboard"]
    assert [t["params"]["space"] for t in trials[:2]] == ["res_unet", "resnet152_head"]
    assert [t["origin"] for t in trials[:2]] == ["start", "start"]
    assert {row["name"] for row in board["rows"]} == {"res_unet", "resnet152_head"}
    assert sum(row["trials"] for row in board["rows"]) == 4
    best = searched["summary"]["best"]
    assert board["rows"][0]["name"] == best["params"]["space"]
    assert board["rows"][0]["value"] == best["value"]
    assert board["sentence"] in searched["out"]
    assert (searched["home"] / "studies" / "both" / "leaderboard.md").read_text().count("\n| ") == 2


def test_best_is_compared_with_its_own_spaces_start_point(searched: dict[str, Any]) -> None:
    start, best = searched["summary"]["baselines"]["start"], searched["summary"]["best"]
    assert start["params"]["space"] == best["params"]["space"]


@pytest.mark.slow
def test_recipes_of_both_families_retrain_with_masks(searched: dict[str, Any]) -> None:
    home = searched["home"]
    code, _, err = script("export", "--study", "both", "--top", "4", home=home)
    assert code == 0, err
    texts = [path.read_text() for path in sorted((home / "recipes").glob("*.yaml"))]
    assert {text.split("family: ")[1].split("\n")[0].strip('"') for text in texts} == {"res_unet", "resnet152_head"}
    unet = next(path for path in sorted((home / "recipes").glob("*.yaml")) if 'family: "res_unet"' in path.read_text())
    code, _, err = script("retrain", str(unet), home=home)
    assert code == 0, err
    report = json.loads((home / "models" / unet.stem / "report.json").read_text())
    assert report["reproduction"]["reproduced"] == "yes"
    if report["params"]["lambda2"]:
        assert 0 <= report["validation"]["measures"]["dice"]["value"] <= 1
    assert (home / "models" / unet.stem / "weights" / "model.pt2").is_file()


def test_a_family_that_needs_masks_refuses_data_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom_folder: Path
) -> None:
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Startup, "begin", lambda self, space: None)
    options = driver.Options(space="res_unet", profile="demo", data=f"folder:{phantom_folder}", study="x")
    with pytest.raises(DataError, match=r"res_unet needs lung masks, but folder:.* names none.*masks=DIR2"):
        driver.run(options, Console(quiet=True))
    assert not (tmp_path / "home" / "studies" / "x").exists()


@pytest.fixture
def phantom_folder(tmp_path: Path) -> Path:
    """Noise in two class folders; enough for a split."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("normal", "viral"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(40):
            pixels = random.integers(0, 256, (24, 24), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"
