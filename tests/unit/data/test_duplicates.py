"""Duplicate detection: re-encoded copies are detected, different images are not."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from lungtune.data.duplicates import Union, exact_groups, near_pairs
from lungtune.data.scan import scan

# 40 smooth pictures of 120 x 100; the first is then copied in many ways.
CHANGES = {
    "jpeg.jpg": lambda image: image,
    "half.png": lambda image: image.resize((60, 50), Image.Resampling.LANCZOS),
    "double.png": lambda image: image.resize((240, 200), Image.Resampling.BICUBIC),
    "brighter.png": lambda image: image.point(lambda v: min(255, v + 20)),
    "gamma.png": lambda image: image.point(lambda v: int(255 * (v / 255) ** 1.3)),
    "rgb.png": lambda image: image.convert("RGB").point(lambda v: v ^ 1),
}


@pytest.fixture
def originals(write):
    return [write(f"{i:02}.png", i, width=120, height=100) for i in range(40)]


def test_different_pictures_are_not_linked(originals):
    facts = scan([str(path) for path in originals])
    assert exact_groups(facts) == []
    assert near_pairs(facts) == []


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_are_detected(originals, name):
    changed = originals[0].with_name(name)
    CHANGES[name](Image.open(originals[7])).save(changed)
    facts = scan([str(path) for path in [*originals, changed]])
    assert exact_groups(facts) == []
    assert [(p.first, p.second, p.kind) for p in near_pairs(facts)] == [(7, 40, "copy")]


def test_mirrored_pictures_are_other_pictures(originals):
    changed = originals[0].with_name("mirrored.png")
    ImageOps.mirror(Image.open(originals[7])).save(changed)
    assert near_pairs(scan([str(path) for path in [*originals, changed]])) == []


def test_exact_groups_join_bytes_and_pixels(originals):
    same_bytes, same_pixels = originals[0].with_name("x.png"), originals[0].with_name("y.png")
    same_bytes.write_bytes(originals[3].read_bytes())
    Image.open(originals[3]).save(same_pixels, compress_level=0)
    facts = scan([str(path) for path in [*originals, same_bytes, same_pixels]])
    assert exact_groups(facts) == [[3, 40, 41]]
    assert near_pairs(facts) == []


def test_unreadable_and_constant_pictures_match_nothing(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((20 + i, 20), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"")
    facts = scan([str(tmp_path / f"{i}.png") for i in range(5)])
    assert exact_groups(facts) == []
    assert near_pairs(facts) == []


def test_blocks_miss_no_pair(make_facts):
    import pandas as pd

    cases = pd.DataFrame({"path": [str(i) for i in range(700)]})
    facts = make_facts(cases)
    for first, second in ((0, 699), (255, 256), (10, 11)):
        facts.iat[second, 6] = facts.iat[first, 6]
        facts.iat[second, 7] = facts.iat[first, 7]
    assert {(p.first, p.second) for p in near_pairs(facts)} == {(0, 699), (255, 256), (10, 11)}


def test_union():
    union = Union(6)
    union.join((4, 2))
    union.join((2, 5))
    union.join((0,))
    assert [union.find(row) for row in range(6)] == [0, 1, 2, 3, 2, 2]
