"""Contact sheet: every image once, under its row's title."""

import io

import numpy as np
import pytest
from PIL import Image

from lungtune.report.contact_sheet import GAP, TITLE, contact_sheet


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
