"""Contact sheets: every image once, under its row's title or above its pair's names."""

import io

import numpy as np
import pytest
from PIL import Image

from lungtune.report.contact_sheet import GAP, TITLE, contact_sheet, pair_sheet


def row(count, size=(20, 30)):
    return np.arange(count, dtype=np.uint8)[:, None, None] * np.ones((1, *size), np.uint8) + 10


def opened(*given):
    return np.asarray(Image.open(io.BytesIO(contact_sheet(*given))))


def test_images_stand_side_by_side_and_go_on_below():
    sheet = opened([("real", row(3)), ("best", row(5))], 3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (TITLE + 2 * GAP) + 3 * (20 + GAP), GAP + 3 * (30 + GAP))
    assert [int((sheet == value).sum() >= 600) for value in range(10, 15)] == [1] * 5
    first = TITLE + 2 * GAP
    assert (sheet[first : first + 20, GAP : GAP + 30] == 10).all()
    assert (sheet[:first] < 128).any(), "the title is there"


def test_a_long_title_and_an_empty_row_fit():
    sheet = opened([("a title that is much longer than the only image is wide", row(1)), ("none", row(0))], 1)
    assert sheet.shape[1] > 200
    assert sheet.shape[0] == 2 * (TITLE + 2 * GAP) + 20 + GAP


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        ([], 3),
        ([("a", row(2))], 0),
        ([("a", row(2)), ("b", row(2, (20, 20)))], 2),
        ([("a", row(2)[0])], 2),
        ([("a", row(2).astype(float))], 2),
    ],
)
def test_wrong_input_is_reported(rows, columns):
    with pytest.raises(ValueError, match=r"rows of uint8 \(n, H, W\) of one size and columns >= 1 must hold"):
        contact_sheet(rows, columns)


def pair(value, *lines):
    return np.stack([np.full((20, 90), value + side, np.uint8) for side in (0, 1)]), lines


def test_pairs_are_side_by_side_above_their_names():
    sheet = np.asarray(Image.open(io.BytesIO(pair_sheet([pair(10, "one.png", "a"), pair(20, "b"), pair(30, "c")], 2))))
    wide, tall, margin, line = 2 * 90 + GAP, 20 + 2 * (TITLE + GAP), 4 * GAP, TITLE + GAP
    assert sheet.shape == (margin + 2 * (tall + margin), margin + 2 * (wide + margin))
    for value, row_, column in ((10, 0, 0), (20, 0, 1), (30, 1, 0)):
        top, left = margin + row_ * (tall + margin), margin + column * (wide + margin)
        assert (sheet[top : top + 20, left : left + 90] == value).all()
        assert (sheet[top : top + 20, left + 90 + GAP : left + wide] == value + 1).all()
        first, second = (sheet[top + 20 + k * line : top + 20 + (k + 1) * line, left : left + wide] for k in (0, 1))
        assert (first < 128).any()
        assert (second < 128).any() == (value == 10)


def test_long_name_keeps_its_end_and_its_pairs_width():
    long = pair_sheet([pair(10, "a/folder/of/a/very/long/name/0123.png")], 1)
    other = pair_sheet([pair(10, "another/folder/of/a/very/long/name/0123.png")], 1)
    assert long == other
    assert Image.open(io.BytesIO(long)).width == 2 * 90 + GAP + 8 * GAP


@pytest.mark.parametrize(("pairs", "columns"), [([], 1), ([pair(1, "a")], 0), ([row(3)], 1)])
def test_wrong_pairs_are_refused(pairs, columns):
    with pytest.raises(ValueError, match=r"pairs of uint8 \(2, H, W\) of one size and columns >= 1 must hold"):
        pair_sheet([each if isinstance(each, tuple) else (each, ()) for each in pairs], columns)
