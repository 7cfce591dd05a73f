"""Head on the frozen tower: textbook linear probe; the export loads with open_clip alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lungtune.engine.pack import Pack
from lungtune.models import clip_model
from lungtune.trainables.clip_head import FAMILY
from lungtune.trainables.clip_head import ClipHeadBase as Base
from lungtune.trainables.clip_head import ClipHeadParams as Params
from toy import part

CLASSES = ("normal", "bacterial", "viral")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
LABELS = np.arange(12) % 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return FAMILY.miniature(tmp_path_factory.mktemp("mini"))


def trained(base: Base, params: Params, steps: int) -> Pack:
    pack = Pack(FAMILY, base, CLASSES, part(IMAGES, LABELS), capacity=2)
    pack.join(params, seed=0, horizon=1000)
    for _ in range(steps):
        pack.step()
    return pack


def test_features_are_open_clips_before_the_projection(base: Base) -> None:
    clip, model = clip_model.plain_clip(base), FAMILY.backbone(base, CLASSES)
    images = torch.rand(3, 1, 16, 16)
    mean, std = clip_model.pixel_statistics(clip)
    clip.visual.proj = None
    normalised = (images.expand(-1, 3, -1, -1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        features = FAMILY.features(model, {"image": images})["features"]
        torch.testing.assert_close(features, clip.encode_image(normalised), atol=1e-5, rtol=0)


def test_the_linear_probe_is_torchs_linear_trained_by_adamw(base: Base) -> None:
    """The whole fold as one batch: the order of a pass makes no difference."""
    params = Params(lr=1e-2, batch_size=12, weight_decay=0.1)
    start, pack = trained(base, params, 0), trained(base, params, 5)
    head = start.adapter(0)
    linear = torch.nn.Linear(*head["head.weight"].shape)
    linear.weight.data, linear.bias.data = head["head.weight"].T.clone(), head["head.bias"].clone()
    optimiser = torch.optim.AdamW(linear.parameters(), lr=1e-2, weight_decay=0.1)
    with torch.no_grad():
        x = FAMILY.features(start.model, {"image": torch.from_numpy(IMAGES).unsqueeze(1).float() / 255})["features"]
    from lungtune.engine.optim import rate

    for step in range(5):
        optimiser.param_groups[0]["lr"] = rate(step, peak=1e-2, total=84, warmup=0.0)
        optimiser.zero_grad()
        F.cross_entropy(linear(x), torch.from_numpy(LABELS)).backward()
        optimiser.step()
    torch.testing.assert_close(pack.adapter(0)["head.weight"], linear.weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pack.adapter(0)["head.bias"], linear.bias, atol=1e-5, rtol=1e-4)


def test_padding_of_narrow_heads_stays_zero(base: Base) -> None:
    pack = trained(base, Params(lr=1e-1, hidden=3, dropout=0.3), 1)
    pack.join(Params(hidden=8), seed=1, horizon=1000)
    for _ in range(4):
        pack.step()
    hidden, out = (pack._stack.parameters[f"hidden.{part}"][0] for part in ("weight", "head"))
    assert hidden[:, :3].any()
    assert not hidden[:, 3:].any()
    assert not out[3:].any()
