"""The shipped CLIP: small, loads with plain open_clip, reproducible."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch

from lungtune import pretrain
from lungtune.errors import UserError

FOLDER = pretrain.SHIPPED / "tiny_clip"


@pytest.fixture(scope="module")
def small():
    recipe = replace(pretrain.RECIPES["tiny_clip"], patients=24, text_steps=2, passes=1, batch=8, render_size=64)
    return recipe, recipe.corpus(0)


def _embed(folder):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.zeros(2, 3, 64, 64), normalize=True)
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a chest X-ray", "both lungs are clear"])
        return image, model.encode_text(tokens, normalize=True), preprocess


def test_at_most_five_megabytes():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 5e6


def test_loads_with_plain_open_clip():
    image, text, _ = _embed(FOLDER)
    assert image.shape == text.shape == (2, 128)
    assert torch.isfinite(image).all()
    assert torch.isfinite(text).all()


def test_model_recognises_captioned_findings(small):
    _, data = small
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{FOLDER}")
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{FOLDER}")(data.captions)
    images = ((data.images[:, None].float() / 255 - 0.5) / 0.25).expand(-1, 3, -1, -1)
    with torch.no_grad():
        match = model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True).T
    same = data.meaning[:, None] == data.meaning[None, :]
    assert match[same].mean() > match[~same].mean() + 0.2


def test_training_is_reproducible_and_saves_what_loads(small, tmp_path):
    recipe, data = small
    losses = []
    one = recipe.train(data, 0, losses.append)
    two = recipe.train(data, 0)
    assert len(losses) == recipe.steps(len(data.images))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    pretrain.save(one, recipe, tmp_path / "base")
    image, text, _ = _embed(tmp_path / "base")
    assert torch.isfinite(image).all()
    assert torch.isfinite(text).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_loss_counts_equal_meanings_as_matches():
    vectors = torch.eye(4)
    twins = vectors[[0, 0, 1, 2]]
    meaning = torch.tensor([0, 0, 1, 2])
    apart = pretrain.contrastive_loss(twins, twins, torch.arange(4), 0.07)
    together = pretrain.contrastive_loss(twins, twins, meaning, 0.07)
    assert together == pytest.approx(2 * 0.6931 / 4, abs=1e-3)
    assert apart == pytest.approx(float(together), abs=1e-3)


def test_captions_fit_the_text_tower(small):
    recipe, data = small
    length = recipe.model["text_cfg"]["context_length"]
    tokens = open_clip.SimpleTokenizer(context_length=77)(data.captions)
    assert float(((tokens != 0).sum(1) <= length).float().mean()) > 0.9


def test_the_command_names_every_base():
    text = (Path(__file__).parents[3] / "src" / "lungtune" / "commands" / "pretrain.py").read_text()
    assert all(text.count(name) >= 2 for name in pretrain.RECIPES)


def test_unknown_base():
    with pytest.raises(UserError, match="Did you mean 'tiny_clip'"):
        pretrain.pretrain("tiny_clop")
