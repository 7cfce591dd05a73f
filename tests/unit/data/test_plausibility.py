"""Implausible pictures are named by kind, drawn, and a problem where they show nothing."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungtune.data import gathering, report, store
from lungtune.data.dataset import inspect
from lungtune.data.readers import images
from lungtune.data.readers.base import read
from lungtune.data.scan import scan
from lungtune.errors import DataError
from lungtune.report.contact_sheet import contact_sheet, pair_sheet
from tests.unit.data.conftest import picture

COMMON = picture(1).astype(float)


def alike(seed: int) -> np.ndarray:
    """Return uint8 `(32, 40)`: one layout with noise of its own."""
    noise = np.random.default_rng(seed).normal(0, 25, COMMON.shape)
    return np.clip(0.7 * COMMON + 30 + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 30 images of one layout."""
    for number in range(60):
        file = tmp_path / f"data/{'ab'[number % 2]}/{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(alike(number)).save(file)
    return tmp_path / "data"


def replace(file: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(file)


def test_plain_images_are_not_odd(folder):
    audit = inspect(f"folder:{folder}").audit
    assert (audit.odd, audit.problems) == ({}, ())


def test_odd_images_are_named_by_kind_and_drawn(folder, capsys):
    black, white = alike(2), alike(4)
    black[3:], white[3:] = 0, 255
    replace(folder / "a/02.png", black)
    replace(folder / "a/04.png", white)
    replace(folder / "a/06.png", 100 + alike(6) // 40)
    replace(folder / "b/07.png", 255 - alike(7))
    source = f"folder:{folder}"
    audit = inspect(source).audit
    assert audit.odd == {
        "nearly constant": ["a/06.png"],
        "nearly all black": ["a/02.png"],
        "nearly all white": ["a/04.png"],
        "inverted against most of their class": ["b/07.png"],
    }
    assert any("1 of 60 images are nearly all black: a/02.png." in warning for warning in audit.warnings)
    assert report.check(source, drawing=report.Drawing(contact_sheet, pair_sheet)) == 0
    (name,) = re.findall(r"The odd images are drawn in (\S+\.png)", capsys.readouterr().out)
    with Image.open(name) as sheet:
        assert sheet.height > 4 * 160


def test_constant_image_is_a_problem(folder):
    replace(folder / "a/02.png", np.full((32, 40), 90))
    (problem,) = inspect(f"folder:{folder}").audit.problems
    assert problem.startswith("Every image must show something, but 1 of 60 are constant: a/02.png.")


def test_class_inverted_as_a_whole_is_named(folder):
    for file in (folder / "b").iterdir():
        replace(file, 255 - np.asarray(Image.open(file)))
    odd = inspect(f"folder:{folder}").audit.odd
    assert set(odd) == {"inverted against most of the other classes"}


def test_what_a_reader_corrected_is_a_warning(folder):
    both = np.stack([alike(2), np.zeros((32, 40), np.uint8)], -1)
    Image.fromarray(both, "LA").save(folder / "a/02.png")
    warnings = inspect(f"folder:{folder}").audit.warnings
    assert any("1 of 60 images were corrected on reading: a/02.png (the alpha" in warning for warning in warnings)


def changed_in_place(file: Path) -> None:
    """Exchange two rows of an uncompressed picture: another content of the same size and time."""
    import os

    stat = file.stat()
    values = np.asarray(Image.open(file))[::-1].copy()
    Image.fromarray(values).save(file, compress_level=0)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size


@pytest.fixture
def bitmaps(folder: Path) -> Path:
    """The same images without compression, so that all have one size in bytes."""
    for file in folder.glob("*/*.png"):
        Image.open(file).save(file, compress_level=0)
    return folder


def test_files_changed_in_place_are_named_by_a_rescan(bitmaps, capsys):
    source = f"folder:{bitmaps}"
    before = inspect(source)
    changed_in_place(bitmaps / "a/02.png")
    assert inspect(source).manifest.hash == before.manifest.hash
    capsys.readouterr()
    assert report.check(source, fresh=True) == 0
    said = capsys.readouterr().out
    assert "1 files have another content than when they were read last" in said
    assert str(bitmaps / "a/02.png") in said
    assert inspect(source).manifest.hash != before.manifest.hash


def test_decoding_a_changed_file_drops_facts_and_names_remedy(bitmaps):
    file = bitmaps / "a/02.png"
    digest = scan([str(file)])["sha1"].iloc[0]
    changed_in_place(file)
    assert scan([str(file)])["sha1"].iloc[0] == digest
    with pytest.raises(DataError, match=r"02\.png must be the one that was scanned.*data check` with --rescan"):
        store.open_images([str(file)], [digest], 16, "train")
    fresh = scan([str(file)])["sha1"].iloc[0]
    assert fresh == images.sha1(read(str(file)))
    assert store.open_images([str(file)], [fresh], 16, "train").shape == (1, 1, 16, 16)


def test_images_decoded_by_a_scan_are_not_decoded_again(folder, monkeypatch, cache):
    big = np.asarray(Image.fromarray(COMMON.astype(np.uint8)).resize((160, 128)))
    Image.fromarray(big).save(folder / "a/02.png")
    Image.fromarray(big).save(folder / "a/04.jpg")  # a store decodes it at a fraction
    files = sorted(str(file) for file in folder.glob("*/*.*"))
    want = [images.letterboxed(read(file), 16) for file in files]
    with gathering.gathering(16) as keep:
        hashes = list(scan(files, size=16, keep=keep)["sha1"])
    seen = []
    letterboxed = store.letterboxed
    monkeypatch.setattr(
        store, "letterboxed", lambda data, size, **how: seen.append(1) or letterboxed(data, size, **how)
    )
    assert np.array_equal(store.open_images(files, hashes, 16, "train")[:, 0], want)
    assert len(seen) == 1
    gathering.discard(16)
    assert not list(cache.glob("pixels/scan-*"))
    assert not list(cache.glob("pixels/gathering-*"))


def test_facts_of_an_earlier_cache_are_read_again(folder, cache):
    import sqlite3

    cache.mkdir(exist_ok=True)
    with sqlite3.connect(cache / "facts-2.sqlite") as connection:
        connection.execute("CREATE TABLE facts (path TEXT PRIMARY KEY, size INTEGER)")
    (cache / "facts-1.sqlite").write_bytes(b"old")
    files = [str(folder / "a/02.png")]
    first = scan(files)
    assert first["spread"].iloc[0] > 0
    assert scan(files).equals(first)
