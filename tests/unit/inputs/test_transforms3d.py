"""Volume augmentation: bounded, per level, independent per trial, masks aligned with volumes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lungtune.core.fields import IMAGE, MASK, VOLUME
from lungtune.inputs import augmentation, transforms3d


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def augment(volumes: Tensor, levels: list[int], counts: list[int], draws: list[torch.Generator]) -> Tensor:
    return transforms3d.augment([volumes], [], levels, counts, draws)[0][0]


@pytest.fixture
def volumes() -> Tensor:
    torch.manual_seed(0)
    return torch.nn.functional.interpolate(torch.rand(6, 1, 4, 4, 4), size=(16, 16, 16), mode="trilinear")


def test_level_zero_changes_nothing(volumes: Tensor) -> None:
    assert augment(volumes, [0, 0], [2, 4], generators(1, 2)) is volumes


@pytest.mark.parametrize("level", [1, 2, 3])
def test_levels_change_volumes_within_their_range(volumes: Tensor, level: int) -> None:
    moved = augment(volumes, [level], [6], generators(1))
    assert moved.shape == volumes.shape
    assert 0 <= moved.min() < moved.max() <= 1
    assert (moved - volumes).abs().flatten(1).mean(1).min() > 1e-3


def test_slot_result_is_independent_of_others(volumes: Tensor) -> None:
    together = augment(volumes, [1, 0, 3], [2, 1, 3], generators(1, 2, 3))
    torch.testing.assert_close(together[:2], augment(volumes[:2], [1], [2], generators(1)))
    assert torch.equal(together[2], volumes[2])
    torch.testing.assert_close(together[3:], augment(volumes[3:], [3], [3], generators(3)))


@pytest.mark.parametrize("level", [1, 3])
def test_mask_follows_its_volume(level: int) -> None:
    shapes = torch.zeros(12, 1, 24, 24, 24)
    for i, shape in enumerate(shapes):
        shape[0, 6 + i % 4 : 16, 5:14, 8 : 17 + i % 5] = 1.0
    (moved,), (masks,) = transforms3d.augment([shapes], [shapes], [level], [12], generators(3))
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert torch.stack([v[m > 0].mean() for v, m in zip(moved, masks, strict=True)]).min() > 0.5
    assert torch.stack([v[m == 0].mean() for v, m in zip(moved, masks, strict=True)]).max() < 0.35
    assert not torch.equal(masks, shapes)


def test_axial_rotation_alone_below_the_highest_level() -> None:
    """Slices keep their content up to scale and shift: a tilt would mix them."""
    stripes = torch.zeros(40, 1, 24, 24, 24)
    stripes[:, :, 10:14] = 1.0
    for level, tilts in ((1, False), (3, True)):
        moved = augment(stripes, [level], [40], generators(5))[:, 0]
        spread = moved[:, :, 8:16, 8:16].std(dim=(2, 3)).amax(1)  # within a slice
        assert bool((spread > 0.15).any()) is tilts


def test_images_and_volumes_may_not_be_mixed() -> None:
    values = {"image": torch.zeros(1, 1, 4, 4), "volume": torch.zeros(1, 1, 4, 4, 4)}
    with pytest.raises(ValueError, match="must have one rank, but images and volumes are mixed"):
        augmentation.augment(values, [IMAGE, VOLUME], [1], [1], generators(1))


def test_fields_without_extent_stay_as_they_are() -> None:
    assert augmentation.augment({}, [], [1], [1], generators(1)) == {}
    moved = augmentation.augment({"mask": torch.ones(2, 1, 8, 8)}, [MASK], [1], [2], generators(1))
    assert set(moved) == {"mask"}
