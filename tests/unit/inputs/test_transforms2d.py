"""Image augmentation: bounded, per level, independent per trial."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lungtune.inputs import transforms2d
from lungtune.inputs.transforms2d import LEVELS, Strength


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def augment(images: Tensor, levels: list[int], counts: list[int], draws: list[torch.Generator]) -> Tensor:
    return transforms2d.augment([images], [], levels, counts, draws)[0][0]


def both(images: Tensor, masks: Tensor, level: int, seed: int) -> tuple[Tensor, Tensor]:
    (moved,), (mask,) = transforms2d.augment([images], [masks], [level], [len(images)], generators(seed))
    return moved, mask


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(6, 1, 6, 6), size=(32, 32), mode="bicubic")
    return smooth.clamp(0, 1)


def test_level_zero_is_the_input_itself(images: Tensor) -> None:
    assert augment(images, [0, 0], [2, 4], generators(1, 2)) is images


@pytest.mark.parametrize("level", [1, 2, 3])
def test_result_is_a_changed_image_of_the_same_kind(images: Tensor, level: int) -> None:
    result = augment(images, [level], [6], generators(1))
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    assert result.min() >= 0.0
    assert result.max() <= 1.0
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(result, images, strict=True))


def test_stronger_levels_change_more(images: Tensor) -> None:
    many = images.repeat(20, 1, 1, 1)
    change = [(augment(many, [k], [120], generators(3)) - many).abs().mean().item() for k in (1, 2, 3)]
    assert change == sorted(change)
    assert change[2] > 1.5 * change[0]


def test_slot_augmentation_is_independent_of_others(images: Tensor) -> None:
    together = augment(images, [1, 0, 3], [2, 1, 3], generators(1, 2, 3))
    torch.testing.assert_close(together[:2], augment(images[:2], [1], [2], generators(1)))
    assert torch.equal(together[2], images[2])
    torch.testing.assert_close(together[3:], augment(images[3:], [3], [3], generators(3)))


def test_only_the_highest_level_flips_and_none_turns_upside_down() -> None:
    ramp = torch.linspace(0, 1, 32).view(1, 1, 1, 32).expand(200, 1, 32, 32)
    column = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(200, 1, 32, 32)
    for level in (1, 2, 3):
        left_right = augment(ramp, [level], [200], generators(5))
        flipped = (left_right[..., 20].mean((1, 2)) < left_right[..., 11].mean((1, 2))).float().mean().item()
        assert flipped == pytest.approx(0.5 if level == 3 else 0.0, abs=0.12 if level == 3 else 0.0)
        up_down = augment(column, [level], [200], generators(5))
        assert (up_down[..., 20, :].mean((1, 2)) > up_down[..., 11, :].mean((1, 2))).all()


def test_geometry_stays_within_its_limits() -> None:
    dot = torch.zeros(300, 1, 65, 65)
    dot[:, :, 31:34, 31:34] = 1.0
    for level in (1, 2, 3):
        moved = augment(dot, [level], [300], generators(7))[:, 0]
        mass = moved - moved.flatten(1).median(1).values.view(-1, 1, 1)
        peak = mass.flatten(1).argmax(1)
        away = torch.stack([peak // 65 - 32, peak % 65 - 32]).abs().max() / 65
        limit = LEVELS[level].shift * (1 + LEVELS[level].scale) * 1.5  # turned shift, rounded to pixels
        assert 0.3 * limit < away < limit + 1.5 / 65


@pytest.mark.parametrize("level", [1, 2, 3])
def test_mask_follows_its_image_exactly(level: int) -> None:
    """A picture that is its own mask still is after rotation, shift, scale and flip."""
    shapes = torch.zeros(40, 1, 48, 48)
    for i, shape in enumerate(shapes):
        shape[0, 8 + i % 7 : 30, 5 : 20 + i % 11] = 1.0
    moved, masks = both(shapes, shapes, level, 3)
    torch.testing.assert_close(moved, augment(shapes, [level], [40], generators(3)), rtol=0, atol=0)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    picture, mask = moved[:, 0], masks[:, 0]
    inside = torch.stack([p[m > 0].mean() for p, m in zip(picture, mask, strict=True)])
    outside = torch.stack([p[m == 0].mean() for p, m in zip(picture, mask, strict=True)])
    assert inside.min() > 0.55
    assert outside.max() < 0.35
    assert not torch.equal(mask, shapes[:, 0])


def test_the_mask_is_the_moved_image_where_only_geometry_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    still = Strength(12, 0.08, 0.12, 0.0, 0.0, 0.0, 0.0, 0.5)
    monkeypatch.setattr("lungtune.inputs.transforms2d.LEVELS", (still,) * 4)
    shapes = (torch.rand(30, 1, 40, 40, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    moved, masks = both(shapes, shapes, 3, 5)
    assert torch.equal(masks, (moved > 0.5).float())


def test_channels_move_together_and_noise_is_their_own() -> None:
    grey = torch.nn.functional.interpolate(torch.rand(8, 1, 6, 6), size=(32, 32), mode="bicubic").clamp(0.2, 0.8)
    colour = augment(grey.expand(-1, 3, -1, -1).contiguous(), [1], [8], generators(4))
    torch.testing.assert_close(colour[:, 0], colour[:, 1], rtol=0, atol=0)
    torch.testing.assert_close(colour[:, :1], augment(grey, [1], [8], generators(4)), rtol=0, atol=0)
    noisy = augment(grey.expand(-1, 3, -1, -1).contiguous(), [3], [8], generators(4))
    assert not torch.equal(noisy[:, 0], noisy[:, 1])


def test_two_images_of_a_case_move_alike() -> None:
    front = (torch.rand(10, 1, 40, 40, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    (one, other), _ = transforms2d.augment([front, 1 - front], [], [1], [10], generators(2))
    inside = one + other  # brightness and contrast act on both; the frame's outside is black in both
    assert inside.std(dim=(1, 2, 3)).max() < (one - other).std(dim=(1, 2, 3)).min()
