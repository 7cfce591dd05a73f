"""End-to-end tests of `scripts/data.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch, door) -> Callable:
    """Run the script with a cache and a working folder of its own."""
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return lambda *words: door("data", *words)


@pytest.fixture
def kaggle(tmp_path) -> Path:
    """A small set in Kaggle's layout, with the 16-image validation folder, nesting and junk."""
    rng = np.random.default_rng(0)
    names = {
        "NORMAL": ["IM-{:04}-0001.jpeg"],
        "PNEUMONIA": ["person{}_bacteria_1.jpeg", "person{}_virus_2.jpeg"],
    }
    for part, per in (("train", 20), ("val", 2), ("test", 6)):
        for folder, patterns in names.items():
            for number, pattern in enumerate(patterns):
                for i in range(per):
                    patient = 1000 * number + i + (500 if part == "val" else 0)
                    path = tmp_path / "chest_xray/chest_xray" / part / folder / pattern.format(patient)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    coarse = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
                    coarse.resize((60, 48), Image.Resampling.BICUBIC).save(path)
    junk = tmp_path / "chest_xray/__MACOSX/chest_xray/train/NORMAL/._IM-0000-0001.jpeg"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"\0\5\26\7")
    return tmp_path / "chest_xray"


def test_check(kaggle, tmp_path):
    """In a process of its own, as a user runs it."""
    environment = {**os.environ, "LUNGTUNE_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    command = [sys.executable, str(ROOT / "scripts/data.py"), "check", "--data", f"chest_xray:{kaggle}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "A search may start." in done.stdout
    assert "official validation part of 6 cases is merged into training" in done.stdout
    assert "always answering 'normal' scores accuracy 0.333" in done.stdout


def test_check_as_json(run, kaggle):
    done = run("check", "--data", f"chest_xray:{kaggle}", "--json", "--seed", "3")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    assert content["classes"] == ["normal", "bacterial", "viral"]
    assert content["official"]["train"] == {"normal": 20, "bacterial": 20, "viral": 20}
    assert content["parts"]["test"]["cases"] == 18
    assert content["parts"]["train"]["cases"] + content["parts"]["validation"]["cases"] == 66
    assert content["seed"] == 3
    assert len(content["hash"]) == 64
    assert content["problems"] == []


def test_problems_end_with_code_2(run, kaggle):
    broken = kaggle / "chest_xray/train/NORMAL/IM-0003-0001.jpeg"
    broken.write_bytes(broken.read_bytes()[:400])
    done = run("check", "--data", f"chest_xray:{kaggle}")
    assert done.code == 2
    assert "IM-0003-0001.jpeg is damaged" in done.out
    assert "A search would stop here." in done.out
    content = json.loads(run("check", "--data", f"chest_xray:{kaggle}", "--json").out)
    assert len(content["unreadable"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--data", "chest_xry:x"], "'chest_xry' is not a data source. Did you mean 'chest_xray'?"),
        (["check", "--data", "chest_xray:chest_xrai"], "does not exist. Did you mean 'chest_xray'?"),
        (["check", "--data", "folder:chest_xray", "--folds", "1"], "folds >= 2 must hold, but got 1."),
        (["chek"], "check"),
    ],
)
def test_mistakes_are_one_sentence(run, kaggle, words, message):
    done = run(*words)
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err
    assert "Traceback" not in done.err


def test_sources(run):
    done = run("sources")
    assert done.code == 0
    for word in ("chest_xray", "folder", "table", "phantom", "patient=", "leaks="):
        assert word in done.out
