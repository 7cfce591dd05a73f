"""Cached features of every family that has them: same training as without, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lungtune.core.params import specs
from lungtune.inputs import feature_cache
from lungtune.inputs.augmentation import augment
from lungtune.layers.layout import derive_seed

from .conftest import HORIZON, Sample

VIEWS = 2
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def kept(family: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A family that keeps features, in a cache of its own."""
    if "views" not in specs(family.family.Base):
        pytest.skip(f"{family.name} keeps no features: its Base has no views")
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    return replace(family, base=replace(family.base, views=VIEWS))


@pytest.fixture
def computed(kept: Sample, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Number of images per call of the family's ``features``."""
    counts: list[int] = []
    true = type(kept.family).features

    def counting(self: object, model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        counts.append(len(next(iter(batch.values()))))
        return true(self, model, batch)

    monkeypatch.setattr(type(kept.family), "features", counting)
    return counts


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def train(family: Sample, level: int, steps: int = 4) -> tuple[list[float], Tensor]:
    pack = replace(family, synthetic=None).pack(1)
    slot = pack.join(replace(family.default, augmentation=level), seed=1, horizon=HORIZON)
    return [pack.step()[slot] for _ in range(steps)], family.predicted(pack, slot)


def test_level_zero_trains_equally_with_and_without_cache(family: Sample, kept: Sample) -> None:
    (losses, scores), (losses_2, scores_2) = train(family, 0), train(kept, 0)
    torch.testing.assert_close(torch.tensor(losses_2), torch.tensor(losses), **CLOSE)
    torch.testing.assert_close(scores_2, scores, **CLOSE)


@pytest.mark.parametrize("level", [1, 3])
def test_views_do_not_depend_on_batch_or_trial(kept: Sample, level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image of a batch is one of its views; two passes show both, and another trial begins at its own view."""
    field = kept.family.inputs[0]
    pack, seen, pixels = kept.pack(2), [], torch.from_numpy(kept.part[field.name]).float() / 255
    true, (name,) = type(kept.family).losses, kept.family.features(pack.model, {field.name: pixels[:1]})
    monkeypatch.setattr(
        type(kept.family),
        "losses",
        lambda self, m, batch, *rest: seen.append(batch[name]) or true(self, m, batch, *rest),
    )
    size = len(pixels)
    params = replace(kept.default, augmentation=level, batch_size=size)
    chosen = []
    for seed in (1, 2):
        pack.join(params, seed=seed, horizon=HORIZON)
    for _ in range(VIEWS):
        chosen.append([member.batch() for member in pack._trials.values()])
        pack.step()
    with torch.no_grad():
        views = torch.stack(
            [
                kept.family.features(
                    pack.model,
                    augment({field.name: pixels}, [field], [level], [size], [seeded(derive_seed(level, view, 0))]),
                )[name]
                for view in range(VIEWS)
            ]
        )
    shown = []
    for batches, inputs in zip(chosen, seen, strict=True):
        for index, rows in zip(batches, inputs.split(size), strict=True):
            far = (views[:, index] - rows).flatten(2).abs().amax(2)
            assert far.amin(0).max() < 1e-4
            shown.append(far.argmin(0)[index.argsort()])
    first, second, first_2, second_2 = shown
    assert torch.equal(first + first_2, torch.ones_like(first))
    assert torch.equal(second + second_2, torch.ones_like(second))
    assert not torch.equal(first, second)


def test_a_second_study_computes_no_features(kept: Sample, computed: list[int]) -> None:
    first = train(kept, 2)
    judged = not kept.draws  # and so the images as they are
    assert sum(computed) == (judged + VIEWS) * len(kept.part) + 1  # one image tells the shape
    computed.clear()
    again = train(kept, 2)
    assert sum(computed) == 1
    assert again[0] == first[0]
    assert torch.equal(again[1], first[1])


def test_more_views_reuse_computed_views(kept: Sample, computed: list[int]) -> None:
    train(kept, 2)
    computed.clear()
    train(replace(kept, base=replace(kept.base, views=VIEWS + 1)), 2)
    assert sum(computed) == len(kept.part) + 1


def test_other_images_or_weights_get_their_own_features(kept: Sample, computed: list[int]) -> None:
    train(kept, 0)
    computed.clear()
    name = kept.family.inputs[0].name
    pixels = kept.part[name].copy()
    pixels[3].flat[55] ^= 1
    other = dataclasses.replace(kept.part, fields={**kept.part.fields, name: pixels})
    train(replace(kept, part=other), 0)
    assert sum(computed) == len(other) + 1
    computed.clear()
    pack = kept.pack(1)
    with torch.no_grad():
        next(pack.model.parameters()).add_(1e-3)
    changed = feature_cache.identity(kept.family, kept.base, pack.model, pack.device, pack.precision)
    assert changed != pack._inputs.identity


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_store_is_reported_once_and_rebuilt(
    kept: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    first = train(kept, 0)
    (file,) = (tmp_path / "cache" / "features").glob("*.bin")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-1]))
    capsys.readouterr()
    again = train(kept, 0)
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 1
    assert "damaged" in output[0]
    assert again[0] == first[0]


def test_synthetic_images_train_the_same_with_and_without_cache(
    classifier: Sample, kept: Sample, computed: list[int]
) -> None:
    train(kept, 0)
    computed.clear()
    params, result = replace(classifier.default, augmentation=0, batch_size=8, synthetic_ratio=1.0), []
    for each in (kept, classifier):
        pack = each.pack(1)
        pack.join(params, seed=1, horizon=HORIZON)
        result.append(torch.tensor([pack.step()[0] for _ in range(4)]))
        if each is kept:
            assert sum(computed) == 1 + 1 + len(kept.synthetic)  # an example of each set tells the shape
    torch.testing.assert_close(*result, **CLOSE)


def test_pack_on_cached_features_equals_single_trials(kept: Sample) -> None:
    variants = kept.variants(6)
    pack = kept.pack(6)
    slots = [pack.join(v, seed=i, horizon=HORIZON) for i, v in enumerate(variants)]
    got = [pack.step() for _ in range(3)]
    for i, slot in enumerate(slots):
        solo = kept.pack(1)
        solo.join(variants[i], seed=i, horizon=HORIZON)
        expected = [solo.step()[0] for _ in range(3)]
        torch.testing.assert_close(torch.tensor([g[slot] for g in got]), torch.tensor(expected), atol=1e-5, rtol=5e-4)
