"""Search by a metric of a family's second task: Dice of the Res-UNet on phantoms with lung masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lungtune.core import journal

ROOT = Path(__file__).parents[2]


def search(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache"), "COLUMNS": "200"}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The three start points of the demo profile; the second has lambda2 = 0."""
    home = tmp_path_factory.mktemp("home")
    words = ["--space", "res_unet", "--data", "phantom,n=100,test=30", "--profile", "demo", "--study", "masks"]
    words += ["--set", "objective=dice", "--set", "fidelity.max=0.9", "--set", "fidelity.min=0.3", "--trials", "3"]
    done = search(home, *words)
    study = home / "studies" / "masks"
    summary = json.loads((study / "summary.json").read_text())
    return {"done": done, "summary": summary, "events": list(journal.read(study / "journal.jsonl"))}


def test_search_by_dice_ends_under_its_full_name(searched: dict[str, Any]) -> None:
    assert searched["done"].returncode == 0, searched["done"].stderr
    (begun,) = (event for event in searched["events"] if event["event"] == "study")
    assert begun["space"]["objective"] == {"metric": "segmentation.dice", "mode": "max"}
    best = searched["summary"]["best"]
    assert best["value"] == max(trial["value"] for trial in searched["summary"]["trials"])
    assert best["interval"]["low"] <= best["value"] <= best["interval"]["high"]
    assert searched["summary"]["baselines"]["mean mask"]["dice"] > 0.3


def test_trial_without_segmentation_scores_zero_and_ends(searched: dict[str, Any]) -> None:
    trials = searched["summary"]["trials"]
    assert [trial["params"]["lambda2"] for trial in trials] == [0.01, 0.0, 0.01]
    assert [trial["state"] for trial in trials] == ["COMPLETE"] * 3
    assert [trial["value"] > 0 for trial in trials] == [True, False, True]
    assert trials[1]["value"] == 0.0
    assert trials[1]["reports"][-1]["metrics"]["macro_f1"] > 0


def test_metric_of_a_task_the_family_lacks_is_refused(tmp_path: Path) -> None:
    done = search(tmp_path, "--space", "clip_lora", "--set", "objective=dice")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --set objective=dice: objective must be a metric of this family, but got 'dice'"
    )
    assert "macro_f1" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("studies/*"))
