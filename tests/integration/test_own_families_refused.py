"""Own families, tasks or spaces that break the contract: exit code 2, one sentence, no leftovers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "contract" / "own"


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """Forty grey images in class folders: no masks, no texts, one label a case."""
    folder = tmp_path_factory.mktemp("grey")
    random = np.random.default_rng(0)
    for number in range(40):
        file = folder / ("normal", "viral")[number % 2] / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 48), dtype=np.uint8)).save(file)
    return folder


def refused(tmp_path, data, family, old="", new="", path=""):
    """Search with a family of one's own in which ``old`` is ``new``; return what was printed."""
    text = (OWN / "trainables" / f"{family}.py").read_text()
    assert old in text
    mine, home = tmp_path / "mine", tmp_path / "home"
    for folder in (mine / "trainables", mine / "search_spaces", home):
        folder.mkdir(parents=True)
    (mine / "trainables" / f"{family}.py").write_text(text.replace(old, new) if old else text)
    (mine / "search_spaces" / "own.yaml").write_text((OWN / "search_spaces" / f"{family}.yaml").read_text())
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
    env["LUNGTUNE_PATH"] = path or str(mine)
    command = [sys.executable, str(ROOT / "scripts" / "search.py"), "--space", "own", "--data", f"folder:{data}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert [each for each in home.rglob("*") if each.is_file()] == []
    return done.stderr.strip().splitlines()[-1], done.stdout


def test_a_module_without_a_family_is_refused(tmp_path, grey):
    error, out = refused(tmp_path, grey, "colour_full", "FAMILY = ColourFull()", "")
    assert error.startswith(f"error: {tmp_path}/mine/trainables/colour_full.py:1: ")
    assert error.endswith("'FAMILY' is missing. Write FAMILY = ColourFull().")
    assert "starting workers" not in out


def test_an_error_in_check_is_refused(tmp_path, grey):
    text = '"""No pretrained weights: the network is initialised from a seed."""'
    error, out = refused(tmp_path, grey, "colour_full", text, "{}['weights']")
    assert error.endswith("the family 'colour_full' must run, but raises KeyError: 'weights'")
    assert f"{tmp_path}/mine/trainables/colour_full.py:" in error
    assert "starting workers" not in out


def test_data_without_masks_are_refused(tmp_path, grey):
    error, out = refused(tmp_path, grey, "mask_only")
    assert error.startswith("error: mask_only needs lung masks, but ")
    assert "Name their folder" in error
    assert "starting workers" not in out


def test_a_missing_own_folder_is_refused(tmp_path, grey):
    error, _ = refused(tmp_path, grey, "colour_full", path=str(tmp_path / "nowhere"))
    assert error.startswith("error: LUNGTUNE_PATH must name folders, but '")


def test_outputs_without_logits_are_refused(tmp_path, grey):
    error, _ = refused(tmp_path, grey, "colour_full", '"logits": model(rows)', '"logit": model(rows)')
    assert f"{tmp_path}/mine/trainables/colour_full.py:" in error
    assert error.endswith("but returned logit. Did you mean 'logit'?")
