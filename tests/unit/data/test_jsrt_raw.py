"""Raw .IMG files of the JSRT database: polarity, levels, size."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lungtune.data.dataset import inspect
from lungtune.data.readers import images
from lungtune.data.scan import facts
from lungtune.data.sources import index_source
from lungtune.errors import DataError

SIDE = 2048


def film(lungs: int = 3500, body: int = 600, right: int = 2000) -> np.ndarray:
    """Return the stored values of a film, uint16: high where it is dark; its right lung ends at column `right`."""
    down, across = np.mgrid[:SIDE, :SIDE].astype(np.uint16)
    values = body + (down // 4) + (across // 16)
    values[400:1600, 300:900] += lungs - body - 500
    values[400:1600, 1100:right] += lungs - body - 500
    return np.minimum(values, 4095).astype(np.uint16)


def raw(values: np.ndarray, order: str = ">") -> bytes:
    return values.astype(f"{order}u2").tobytes()


def test_raw_lungs_are_dark_and_upright():
    data = raw(film(right=1500))
    square = images.letterboxed(data, 64).astype(int)
    assert square[20:45, 12:26].mean() < 60 < 150 < square[2:10, 2:60].mean()
    assert square[30, 52:].mean() > 100  # beside the right lung
    assert images.letterboxed(data, 64, channels=3).shape == (3, 64, 64)


def test_raw_levels_are_those_of_the_inverted_png(tmp_path):
    values = film()
    (tmp_path / "JPCLN001.IMG").write_bytes(raw(values))
    Image.fromarray((4095 - values).astype(np.uint16)).save(tmp_path / "JPCLN001.png")
    one, other = (facts(str(tmp_path / name)) for name in ("JPCLN001.IMG", "JPCLN001.png"))
    assert one.pixels == other.pixels
    assert (one.width, one.height, one.type, one.mode) == (SIDE, SIDE, "IMG", "inverted, 12 bit")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (raw(film())[:-2], "8,388,608 bytes, but has 8,388,606 bytes"),
        (bytes(512 * 512 * 2), "2048 x 2048 .* but has 524,288 bytes"),
        (raw(film(), "<"), "big-endian 16-bit values without a header of 0 to 4,095, but holds 6"),
    ],
)
def test_other_raw_files_are_named_with_their_size(tmp_path, data, words):
    for k in range(2):
        (tmp_path / "data" / "ab"[k]).mkdir(parents=True)
        Image.fromarray(np.full((40, 40), 9 * k, np.uint8)).save(tmp_path / "data" / "ab"[k] / f"{k}.png")
    (tmp_path / "data/a/1.img").write_bytes(data)
    problem = " ".join(inspect(f"folder:{tmp_path / 'data'},patient=none").audit.problems)
    assert "a/1.img" in problem
    with pytest.raises(images.UnreadableImageError, match=words):
        facts(str(tmp_path / "data/a/1.img"))


@pytest.mark.parametrize("name", ["JPCLN001.dcm", "JPCLN001.npy", "JPCLN001.png"])
def test_raw_bytes_are_recognised_under_another_name(tmp_path, name):
    (tmp_path / name).write_bytes(raw(film()))
    assert facts(str(tmp_path / name)).type == "IMG"


def test_jsrt_raw_with_masks_of_scr(tmp_path):
    for k, name in enumerate(("Nodule154images/JPCLN001.IMG", "NonNodule93images/JPCNN001.IMG")):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(raw(film(right=1500 + 200 * k)))
        for side, columns in (("left", slice(550, 750)), ("right", slice(150, 450))):
            mask = np.zeros((1024, 1024), np.uint8)
            mask[200:800, columns] = 255
            where = tmp_path / f"data/scratch/fold1/masks/{side} lung/{file.stem}.gif"
            where.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(where)
    source = f"jsrt:{tmp_path / 'data'}"
    assert dict(zip(index_source(source)["case_id"], index_source(source)["label"], strict=True)) == {
        "JPCLN001": "nodule",
        "JPCNN001": "no_nodule",
    }
    inspection = inspect(source)
    assert not [problem for problem in inspection.audit.problems if "read" in problem or "mask" in problem]


def test_raw_file_is_no_mask(tmp_path):
    with pytest.raises(images.UnreadableImageError, match=r"raw \.IMG\), but a mask must be PNG or JPEG"):
        images.letterboxed_mask(raw(film()), raw(film()), 32)


def test_jsrt_names_what_it_needs_beside_other_raw_files(tmp_path):
    (tmp_path / "other.IMG").write_bytes(b"x")
    with pytest.raises(DataError, match="jsrt needs images named"):
        index_source(f"jsrt:{tmp_path}")
