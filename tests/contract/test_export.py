"""Exports of every family: the README's code reproduces the trial's predictions without lungtune."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lungtune import catalog

from .conftest import HORIZON, Sample, on_labels

IMAGE_CLASSIFIERS = [
    name
    for name in catalog.families()
    if any(task.name == "classification" for task in catalog.family(name).tasks)
    and catalog.family(name).inputs[0].kind == "image"
]


def test_the_readme_classifies_as_the_trial_does(
    classifier: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if len(classifier.family.inputs) > 1:
        pytest.skip(f"{classifier.name} has several inputs, for which a README's code takes several files")
    check(classifier, tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize("name", IMAGE_CLASSIFIERS)
def test_the_readme_gives_each_label_its_probability(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every family that classifies images trains on several labels a case and exports what it has learnt."""
    check(on_labels(name, tmp_path / "base"), tmp_path, monkeypatch, capsys)


def check(
    classifier: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (field,) = classifier.family.inputs
    params = classifier.variants(2)[1]
    pack = classifier.pack(1)
    slot = pack.join(params, seed=1, horizon=HORIZON)
    for _ in range(3):
        pack.step()
    folder, picture = tmp_path / "weights", tmp_path / "picture.png"
    folder.mkdir()
    classifier.family.export(classifier.base, params, classifier.classes, pack.adapter(slot), folder)
    assert {"README.md", "classes.json"} <= {file.name for file in folder.iterdir()}
    pixels = classifier.part[field.name][20]
    if field.kind == "volume":
        picture = tmp_path / "volume.npy"
        np.save(picture, pixels[0])
    else:
        Image.fromarray(pixels.transpose(1, 2, 0) if field.channels == 3 else pixels[0]).save(picture)
    snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for name in [name for name in sys.modules if name.split(".")[0] == "lungtune"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "argv", ["classify.py", str(folder), str(picture)])
    capsys.readouterr()
    exec(compile(snippet, "README.md", "exec"), {})
    output = json.loads(capsys.readouterr().out)
    monkeypatch.undo()
    assert list(output) == list(classifier.classes)
    expected = pack.predict(classifier.part.select(np.array([20])))[slot]["probabilities"][0]
    torch.testing.assert_close(torch.tensor(list(output.values())), expected, atol=2e-5, rtol=1e-4)
