"""Contract of every family that draws images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .conftest import CLASSES, HORIZON, Sample


def test_an_image_is_a_function_of_class_and_seed(generator: Sample) -> None:
    """The other images of a call, and their number, have no effect."""
    pack = generator.pack(2)
    slot = pack.join(generator.variants(2)[1], seed=1, horizon=HORIZON)
    pack.join(generator.default, seed=2, horizon=HORIZON)
    for _ in range(3):
        pack.step()
    images = pack.draw(slot, [0, 1, 2, 0], [5, 6, 7, 8], stride=4)
    assert images.shape == (4, generator.base.image_size, generator.base.image_size)
    assert images.dtype == torch.uint8
    again = pack.draw(slot, [2, 0], [7, 5], stride=1)
    assert (again.int() - images[[2, 0]].int()).abs().max() <= 1
    other_seed, other_class = pack.draw(slot, [0, 1], [6, 5], stride=4)
    assert not torch.equal(other_seed, images[0])
    assert not torch.equal(other_class, images[0])


def test_an_untrained_trial_draws_as_its_base(generator: Sample) -> None:
    """Before a step adapters change nothing, whatever they adapt; after some they do."""
    drawn = []
    for params in (generator.default, replace(generator.default, lora_rank=16, lora_targets="attn_ff", lora_text=True)):
        pack = generator.pack(1)
        slot = pack.join(params, seed=1, horizon=HORIZON)
        drawn.append(generator.predicted(pack, slot))
        for _ in range(4):
            pack.step()
        assert (generator.predicted(pack, slot) - drawn[0]).abs().max() > 2 / 255
    torch.testing.assert_close(drawn[0], drawn[1], atol=1.01 / 255, rtol=0)


def test_it_learns_to_denoise(generator: Sample) -> None:
    pack = generator.pack(1)
    all_of_it = {"lora_rank": 16, "lora_targets": "attn_ff", "lora_text": True}
    calm = replace(generator.default, augmentation=0, batch_size=64, lora_dropout=0.0, caption_dropout=0.0, **all_of_it)
    slot = pack.join(calm, seed=1, horizon=100_000)
    losses = [pack.step()[slot] for _ in range(60)]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])


def test_embeddings_differ_between_images(generator: Sample) -> None:
    embed = generator.family.embedder(generator.base, torch.device("cpu"))
    images = torch.from_numpy(generator.part["image"][:, 0]).unsqueeze(1).float() / 255
    result = embed(images)
    assert result.shape[0] == len(images)
    assert not result.requires_grad
    torch.testing.assert_close(embed(images[3:4]), result[3:4], atol=1e-5, rtol=1e-4)
    assert torch.cdist(result, result)[0, 1:].min() > 1e-4


def test_there_is_a_caption_for_each_class(generator: Sample) -> None:
    captions = generator.family.captions(generator.default, CLASSES)
    assert len(set(captions)) == len(CLASSES)


def test_the_readme_draws_as_the_trial_does(generator: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapters load in plain diffusers, none is missing, and the same seed gives the same image."""
    params = generator.variants(2)[1]
    pack = generator.pack(1)
    slot = pack.join(params, seed=1, horizon=HORIZON)
    for _ in range(3):
        pack.step()
    folder, picture = tmp_path / "weights", tmp_path / "drawn.png"
    folder.mkdir()
    generator.family.export(generator.base, params, CLASSES, pack.adapter(slot), folder)
    snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    for name in [name for name in sys.modules if name.split(".")[0] == "lungtune"]:
        monkeypatch.setitem(sys.modules, name, None)
    arguments = ["draw.py", generator.base.weights, str(folder), CLASSES[1], "11", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    exec(compile(snippet, "README.md", "exec"), {})
    monkeypatch.undo()
    expected = pack.draw(slot, [1], [11], stride=1)[0].numpy()
    assert np.abs(np.asarray(Image.open(picture)).astype(int) - expected.astype(int)).max() <= 1
