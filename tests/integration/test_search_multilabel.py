"""Search, export and retraining on phantoms with several findings a film."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lungtune.core import journal

DATA = "phantom,n=160,test=60,labels=yes,uncertain=0.1"
SHORT = ["--set", "fidelity.max=0.9", "--set", "fidelity.min=0.3", "--trials", "3"]


def run(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache"), "COLUMNS": "200"}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-P", "-m", "lungtune", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def searched(home: Path) -> dict[str, Any]:
    words = ["--space", "vit_b16_head", "--profile", "demo", "--data", DATA, "--study", "findings", *SHORT]
    done = run(home, "search", *words)
    study = home / "studies" / "findings"
    assert done.returncode == 0, done.stderr
    summary = json.loads((study / "summary.json").read_text())
    return {"done": done, "summary": summary, "events": list(journal.read(study / "journal.jsonl"))}


@pytest.mark.slow
def test_the_space_is_searched_for_the_labels(searched: dict[str, Any]) -> None:
    (begun,) = (event for event in searched["events"] if event["event"] == "study")
    assert begun["space"]["objective"] == {"metric": "multilabel.macro_auroc", "mode": "max"}
    assert {"uncertain", "positive_weighting"} <= begun["space"]["axes"].keys()
    assert "objective macro_auroc instead of macro_f1" in searched["done"].stdout
    assert "labels; left out, with fewer than 5 known positive or negative cases" in searched["done"].stdout
    best = searched["summary"]["best"]
    assert best["interval"]["low"] <= best["value"] <= best["interval"]["high"]
    assert searched["summary"]["baselines"]["prevalence"]["macro_auroc"] == 0.5


@pytest.mark.slow
def test_its_best_recipe_is_retrained_and_tested(searched: dict[str, Any], home: Path) -> None:
    assert run(home, "export", "--study", "findings").returncode == 0
    done = run(home, "retrain", str(home / "recipes/findings-1.yaml"), "--test")
    assert done.returncode == 0, done.stderr
    assert "reproduced: yes" in done.stdout
    folder = home / "models/findings-1"
    report = json.loads((folder / "report.json").read_text())
    assert report["test"]["metrics"]["macro_auroc"]["low"] <= report["test"]["metrics"]["macro_auroc"]["value"]
    assert set(report["test"]["labels"]) == set(report["data"]["classes"])
    assert {"calibration.json", "classes.json", "README.md"} <= {file.name for file in (folder / "weights").iterdir()}
    blind = report["test"]["controls"]
    assert blind["metadata only"]["computed"]
    assert blind["lungs blacked out"]["cases"] == 60
    assert report["validation"]["controls"].keys() == {"metadata only"}
    assert "The same recipe with the lungs blacked out scores 0." in done.stdout
    assert "| lungs blacked out | 60 | 0." in (folder / "report.md").read_text()
    assert (folder / "test_roc.png").is_file()
    with (folder / "test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60
    assert {row["truth_effusion"] for row in rows} <= {"0", "1"}
    assert all(0 <= float(row["probability_effusion"]) <= 1 for row in rows)
    assert not math.isnan(report["test"]["macro_f1"] or 0.0)


@pytest.mark.slow
def test_what_labels_do_not_have_is_refused_at_once(home: Path) -> None:
    words = ["--space", "res_unet", "--profile", "demo", "--data", DATA, "--set", "objective=dice"]
    done = run(home, "search", *words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "objective must be a metric of multilabel" in done.stderr
