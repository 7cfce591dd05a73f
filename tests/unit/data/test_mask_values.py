"""Meaning of a mask's values: black and white, 0 and 1, grey edges, label maps, pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lungtune.core.fields import MASK
from lungtune.data.dataset import inspect, load
from lungtune.data.readers import pictures
from lungtune.data.readers.base import UnreadableImageError
from lungtune.data.readers.mask_values import inside, levels
from lungtune.errors import DataError

LEFT, RIGHT = (slice(4, 28), slice(4, 16)), (slice(4, 28), slice(24, 36))


def lungs(left: int, right: int) -> np.ndarray:
    values = np.zeros((32, 40), np.uint8)
    values[LEFT], values[RIGHT] = left, right
    return values


def jpeg(values: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream))


def resized(values: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(values).resize((300, 240), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lungs(0, 0), ()),
        (lungs(255, 255), (255,)),
        (lungs(1, 1), (1,)),
        (lungs(1, 1).astype(np.float32), (1,)),
        (lungs(2, 0), (2,)),
        (np.full((8, 8), 255), (255,)),
        (resized(lungs(255, 255)), (255,)),
        (jpeg(lungs(255, 255)), (255,)),
        (jpeg(resized(lungs(255, 255))), (255,)),
        (lungs(1, 2), (1, 2)),
        (lungs(127, 254), (127, 254)),
        (jpeg(lungs(127, 254)), (127, 254)),
        (resized(lungs(127, 254)), (127, 254)),
        (lungs(100, 200).astype(np.uint16) * 257, (100 * 257, 200 * 257)),
    ],
)
def test_levels_are_the_values_of_areas(values, expected):
    found = levels(values)
    assert len(found) == len(expected)
    assert all(abs(value - wanted) <= 4 for value, wanted in zip(found, expected, strict=True))


def test_picture_is_no_mask():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(noise[:8, :8]).resize((200, 200), Image.Resampling.BICUBIC))
    for values, message in (
        (noise, "is a grey picture"),
        (smooth, "is a grey picture"),
        (noise // 3, "85 .*|86 values"),
    ):
        with pytest.raises(UnreadableImageError, match=message):
            levels(values)


def test_areas_of_several_colours_are_no_mask():
    colours = np.zeros((32, 40, 3), np.uint8)
    colours[LEFT], colours[RIGHT] = (255, 0, 0), (0, 255, 0)
    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "PNG")
    with pytest.raises(UnreadableImageError, match="has areas of several colours"):
        pictures.open_mask(stream.getvalue())


def test_inside_is_white_or_chosen():
    assert np.array_equal(inside(lungs(255, 130)) > 0, lungs(1, 1) > 0)
    assert np.array_equal(inside(lungs(1, 1)) > 0, lungs(1, 1) > 0)
    assert np.array_equal(inside(lungs(1, 2), (2,)) > 0, lungs(0, 1) > 0)
    assert np.array_equal(inside(lungs(127, 254), (127, 254)) > 0, lungs(1, 1) > 0)
    lossy = jpeg(resized(lungs(127, 254)))
    wrong = inside(lossy, (127, 254)) != inside(resized(lungs(255, 255)))
    assert wrong.mean() < 0.05, "its edges alone"
    with pytest.raises(UnreadableImageError, match=r"say which are lung, as in mask_values=1\|2"):
        inside(lungs(1, 2))


@pytest.fixture
def maps(write, tmp_path):
    """40 images in two classes with label maps of 127 (left lung) and 254 (right lung)."""
    for i in range(40):
        write(f"{'ab'[i % 2]}/images/{i}.png", i)
        Image.fromarray(lungs(127, 254)).save(write(f"{'ab'[i % 2]}/masks/{i}.png"))
    return f"folder:{tmp_path / 'data'}"


def test_label_maps_ask_which_values_are_lung(maps):
    (problem,) = inspect(maps).audit.problems
    assert problem == (
        "Masks with several values must say which are lung, but 40 of 40 hold several, such as that of a/images/0.png "
        "127 and 254; in all: 127 (40 masks), 254 (40 masks). Add ',mask_values=127|254' to the data source if all are "
        "lung, or only those that are."
    )
    with pytest.raises(DataError, match="must say which are lung"):
        load(inspect(maps), [MASK], 40)


def test_chosen_values_are_loaded_and_part_of_the_split(maps, tmp_path):
    both = inspect(f"{maps},mask_values=254|127")
    assert both.audit.problems == ()
    assert "values 127 (40 masks), 254 (40 masks): 127|254 is lung" in both.audit.inventory["masks"]
    right = inspect(f"{maps},mask_values=254")
    assert both.manifest.hash != right.manifest.hash
    assert both.manifest.without("mask").hash == right.manifest.without("mask").hash
    for inspection, expected in ((both, lungs(255, 255)), (right, lungs(0, 255))):
        inspection.save(tmp_path / "split.json")
        mask = load(tmp_path / "split.json", [MASK], 40).train["mask"][0, 0]
        assert np.array_equal(mask[4:36], expected)


def test_values_that_no_mask_holds_are_refused(maps):
    (problem,) = inspect(f"{maps},mask_values=127|200").audit.problems
    assert problem.startswith("mask_values must name values of the masks, but none holds 200; they hold 127 (40 masks)")
    with pytest.raises(DataError, match="mask_values must be whole numbers above 0 joined with"):
        inspect(f"{maps},mask_values=lung")


def test_single_values_that_differ_between_masks_are_a_label_map(maps, tmp_path):
    for i in range(40):
        Image.fromarray(lungs(1, 0) if i % 3 else lungs(0, 2)).save(tmp_path / f"data/{'ab'[i % 2]}/masks/{i}.png")
    (problem,) = inspect(maps).audit.problems
    assert "in all: 1 (26 masks), 2 (14 masks)" in problem


def test_picture_as_mask_is_named_by_the_check(maps, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "data/a/masks/4.png")
    problems = inspect(f"{maps},mask_values=127|254").audit.problems
    assert any("a/masks/4.png must be black and white" in problem for problem in problems)
