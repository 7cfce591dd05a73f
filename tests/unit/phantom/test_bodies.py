"""Shipped bases other than CLIP: small, load with plain timm, useful features, reproducible."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from lungtune import pretrain
from lungtune.data.phantom import generate
from lungtune.models import lazy_imports, timm_models
from lungtune.pretrain.corpus import MEAN, STD
from lungtune.pretrain.supervised import Supervised, branches

NAMES = sorted(name for name, recipe in pretrain.RECIPES.items() if isinstance(recipe, Supervised))
TIMMS = [name for name in NAMES if name != "tiny_conformer"]
MEGABYTES = {"tiny_conformer": 3.0}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small():
    recipe = replace(pretrain.RECIPES["tiny_resnet"], patients=16, passes=1, batch=8, render_size=64)
    return recipe.corpus(0)


@pytest.fixture(scope="module")
def clinic():
    """Pictures of domain B, their classes, and which are for training: other patients than the rest."""
    phantoms = list(generate(200, seed=5, size=64))
    images = torch.from_numpy(np.stack([phantom.image for phantom in phantoms]))[:, None].float() / 255
    train = np.array([int(phantom.patient_id[-6:]) < 130 for phantom in phantoms])
    return images, np.array([phantom.label for phantom in phantoms]), train


def _score(body, clinic):
    """Return macro-F1 of a linear probe of a body's features."""
    images, labels, train = clinic
    mean, std = MEAN, STD
    with torch.no_grad():
        parts = [branches(body.eval(), (part - mean) / std) for part in images.split(128)]
    features = torch.cat([torch.cat([pooled for pooled, _ in part], 1) for part in parts]).numpy()
    features = StandardScaler().fit(features[train]).transform(features)
    probe = LogisticRegression(C=0.01, max_iter=300).fit(features[train], labels[train])
    return f1_score(labels[~train], probe.predict(features[~train]), average="macro")


@pytest.mark.parametrize("name", NAMES)
def test_small_and_complete(name):
    folder = pretrain.SHIPPED / name
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sum(file.stat().st_size for file in folder.iterdir()) <= MEGABYTES.get(name, 1.5) * 1e6
    recipe, config = pretrain.RECIPES[name], json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["model_args"]) == (recipe.architecture, recipe.settings)


@pytest.mark.parametrize("name", NAMES)
def test_loads_at_another_size_with_wanted_channels_and_classes(name):
    built = timm_models.build("", name, 96, in_chans=3, num_classes=6)
    assert built.mean == (0.5,) * 3
    assert built.std == (0.25,) * 3
    scores = built.model(torch.rand(2, 3, 96, 96))
    assert all(part.shape == (2, 6) for part in (scores if isinstance(scores, tuple) else (scores,)))


@pytest.mark.parametrize("name", TIMMS)
def test_loads_with_plain_timm(name):
    plain = lazy_imports.timm().create_model(f"local-dir:{pretrain.SHIPPED / name}", pretrained=True).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain(images), timm_models.build("", name, 64).model(images))
    assert plain.num_features == json.loads((pretrain.SHIPPED / name / "config.json").read_text())["num_features"]


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_vit"])
def test_features_separate_diseases_unseen_in_pretraining(name, clinic):
    """Far better than the same network's with random weights."""
    torch.manual_seed(0)
    random = _score(pretrain.RECIPES[name].body(), clinic)
    assert _score(timm_models.build("", name, 64).model, clinic) > random + 0.15


@pytest.mark.parametrize("name", NAMES)
def test_training_is_reproducible_and_saves_what_loads(name, small, tmp_path):
    recipe = replace(pretrain.RECIPES[name], passes=1, batch=8)
    losses = []
    one, two = recipe.train(small, 0, losses.append), recipe.train(small, 0)
    assert len(losses) == recipe.steps(len(small.images))
    for (key, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    pretrain.save(one, recipe, tmp_path / "base")
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        (ours, *_), (theirs, *_) = (
            branches(one, images),
            branches(timm_models.build("", f"{tmp_path}/base", 64).model, images),
        )
    assert torch.allclose(ours[0], theirs[0], atol=0.05, rtol=0.05)


def test_targets_are_findings_at_places(small):
    assert small.places.shape[0] == len(small.images)
    several = small.places.sum(1)
    assert ((several > 0) == (small.kinds.sum(1) > 0)).all()
    assert (several >= small.kinds.sum(1)).all()
    same = small.meaning[:, None] == small.meaning[None, :]
    assert torch.equal(same, (small.places[:, None] == small.places[None, :]).all(2))
