"""Pixel stores: decoded once, shared, rebuilt when damaged."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from lungtune.core.cache import sample
from lungtune.data import store
from lungtune.data.readers import images
from lungtune.data.readers.base import read
from lungtune.data.sources import index_source
from lungtune.data.store import open_images
from lungtune.errors import DataError


@pytest.fixture
def decoded(monkeypatch):
    """Hashes of the images decoded since the last look."""
    seen: list[str] = []
    letterboxed = store.letterboxed

    def spy(data, size, **options):
        seen.append(images.sha1(data))
        return letterboxed(data, size, **options)

    monkeypatch.setattr(store, "letterboxed", spy)
    return seen


@pytest.fixture
def files(write):
    paths = [str(write(f"{i}.png", i)) for i in range(6)]
    return paths, [images.sha1(read(path)) for path in paths]


def test_decodes_once(files, decoded):
    paths, hashes = files
    first = open_images(paths, hashes, 16, "train")
    assert first.shape == (6, 1, 16, 16)
    assert first.dtype == np.uint8
    assert isinstance(first, np.memmap)
    assert not first.flags.writeable
    for row, path in zip(first, paths, strict=True):
        assert np.array_equal(row[0], images.letterboxed(read(path), 16))
    decoded.clear()
    assert np.array_equal(open_images(paths, hashes, 16, "train"), first)
    assert decoded == []


def test_gray_store_keeps_name_and_content_of_version_0_1(files, cache):
    paths, hashes = files
    pixels = open_images(paths, hashes, 16, "train")
    key = hashlib.sha256("\n".join(["1", "16", *hashes]).encode()).hexdigest()[:16]
    file = cache / f"pixels/train-16-{key}.u8"
    assert file.read_bytes() == pixels.tobytes()
    about = json.loads(file.with_suffix(".json").read_text())
    assert {name: about[name] for name in ("version", "shape", "images")} == {
        "version": 1,
        "shape": [6, 16, 16],
        "images": hashes,
    }


def test_colour_and_gray_rows_are_not_confused(files):
    paths, hashes = files
    gray = open_images(paths, hashes, 3, "train")
    colour = open_images(paths, hashes, 3, "train", channels=3)
    assert np.array_equal(colour, np.repeat(gray, 3, axis=1))
    assert np.array_equal(open_images(paths[:2], hashes[:2], 3, "validation", channels=3), colour[:2])
    assert np.array_equal(open_images(paths[:2], hashes[:2], 3, "validation"), gray[:2])


def test_images_are_not_needed_once_decoded(files):
    paths, hashes = files
    first = open_images(paths, hashes, 16, "train")
    for path in paths:
        os.unlink(path)
    assert np.array_equal(open_images(paths, hashes, 16, "train"), first)


def test_another_split_of_the_same_images_decodes_nothing(files, decoded):
    paths, hashes = files
    first = open_images(paths[:4], hashes[:4], 16, "train")
    open_images(paths[4:], hashes[4:], 16, "validation")
    decoded.clear()
    order = [5, 0, 3, 3]
    mixed = open_images([paths[i] for i in order], [hashes[i] for i in order], 16, "train")
    assert decoded == []
    assert np.array_equal(mixed[1], first[0])
    assert np.array_equal(mixed[2], mixed[3])
    assert np.array_equal(mixed[0, 0], images.letterboxed(read(paths[5]), 16))


def test_another_size_is_another_store(files, decoded):
    paths, hashes = files
    open_images(paths, hashes, 16, "train")
    decoded.clear()
    assert open_images(paths, hashes, 8, "train").shape == (6, 1, 8, 8)
    assert len(decoded) == 6


def test_an_image_listed_twice_is_decoded_for_each_row(files):
    paths, hashes = files
    pixels = open_images([paths[0], paths[0]], [hashes[0], hashes[0]], 16, "train")
    assert np.array_equal(pixels[0], pixels[1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "cut short": lambda data, about: data.write_bytes(data.read_bytes()[:-1]),
    "grown": lambda data, about: data.write_bytes(data.read_bytes() + b"x"),
    "empty": lambda data, about: data.write_bytes(b""),
    "bit flipped": lambda data, about: flip(data),
    "data gone": lambda data, about: data.unlink(),
    "sidecar gone": lambda data, about: about.unlink(),
    "sidecar torn": lambda data, about: about.write_text(about.read_text()[:50]),
    "sidecar empty": lambda data, about: about.write_text(""),
    "sidecar a list": lambda data, about: about.write_text("[]"),
    "sidecar of an older version": lambda data, about: about.write_text('{"version": 0}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_noticed_and_rebuilt_with_one_line(files, cache, capsys, damage):
    paths, hashes = files
    want = np.array(open_images(paths, hashes, 16, "train"))
    data, about = next(cache.glob("pixels/*.u8")), next(cache.glob("pixels/*.json"))
    DAMAGE[damage](data, about)
    capsys.readouterr()
    assert np.array_equal(open_images(paths, hashes, 16, "train"), want)
    output = capsys.readouterr().err.splitlines()
    assert len(output) == 1
    assert "damaged" in output[0]
    assert np.array_equal(open_images(paths, hashes, 16, "train"), want)
    assert capsys.readouterr().err == ""


def test_left_over_temporary_files_do_no_harm(files, cache):
    paths, hashes = files
    want = np.array(open_images(paths, hashes, 16, "train"))
    data = next(cache.glob("pixels/*.u8"))
    data.rename(data.with_suffix(".tmp"))
    data.with_suffix(".json").unlink()
    assert np.array_equal(open_images(paths, hashes, 16, "train"), want)


def test_a_damaged_store_is_no_source_of_rows(files, cache, decoded):
    paths, hashes = files
    open_images(paths, hashes, 16, "train")
    flip(next(cache.glob("pixels/*.u8")))
    decoded.clear()
    part = open_images(paths[:2], hashes[:2], 16, "validation")
    assert len(decoded) == 2
    assert np.array_equal(part[0, 0], images.letterboxed(read(paths[0]), 16))


def test_a_large_store_is_checked_in_samples():
    assert list(sample(3)) == [0, 1, 2]
    assert list(sample(1)) == [0]
    blocks = list(sample(10_000))
    assert len(blocks) == 256
    assert (blocks[0], blocks[-1]) == (0, 9_999)


def test_changed_and_vanished_images_are_reported(files, write):
    paths, hashes = files
    write("3.png", 99)
    with pytest.raises(DataError, match=r"3\.png must be the one that was scanned, but its content has changed"):
        open_images(paths, hashes, 16, "train")
    os.unlink(paths[3])
    with pytest.raises(DataError, match=r"3\.png could be read when it was scanned, but now it does not exist"):
        open_images(paths, hashes, 16, "train")
    write("3.png", 3)
    assert open_images(paths, hashes, 16, "train").shape == (6, 1, 16, 16)


def test_a_full_disk_is_an_error_and_not_a_crash(files, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"No space left on device\. LUNGTUNE_CACHE moves the cache"):
        open_images(*files, 16, "train")


def test_a_cache_that_is_no_folder(files, cache):
    cache.write_text("")
    with pytest.raises(DataError, match=r"must be a folder that can be written, but: .*LUNGTUNE_CACHE"):
        open_images(*files, 16, "train")


@pytest.mark.parametrize("where", ["pixels", "phantoms"])
def test_a_cache_that_may_not_be_written(files, monkeypatch, where):
    def denied(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(DataError, match=r"but: Permission denied\. LUNGTUNE_CACHE .* folder that can be written"):
        open_images(*files, 16, "train") if where == "pixels" else index_source("phantom:,n=30,test=9,size=32")


def test_wrong_size_and_no_images():
    with pytest.raises(DataError, match="at least 1 pixel, but got 0"):
        open_images(["a"], ["b"], 0, "train")
    assert open_images([], [], 16, "test").shape == (0, 1, 16, 16)


def _open_in_child(paths, hashes, queue):
    queue.put(int(open_images(paths, hashes, 16, "train").sum(dtype=np.int64)))


def _killed_while_decoding(paths, hashes):
    def die(data, size, **options):
        os.kill(os.getpid(), signal.SIGKILL)

    store.letterboxed = die
    open_images(paths, hashes, 16, "train")


def test_process_killed_while_decoding_leaves_no_store(files, cache):
    child = multiprocessing.get_context("fork").Process(target=_killed_while_decoding, args=files)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert list(cache.glob("pixels/*.tmp"))
    pixels = open_images(*files, 16, "train")
    assert np.array_equal(pixels[5, 0], images.letterboxed(read(files[0][5]), 16))
    assert not list(cache.glob("pixels/*.tmp"))


def test_processes_build_one_store_together(files, cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_open_in_child, args=(*files, queue)) for _ in range(4)]
    for child in children:
        child.start()
    sums = {queue.get(timeout=60) for _ in children}
    for child in children:
        child.join(60)
    assert len(sums) == 1
    assert len(list(cache.glob("pixels/*.u8"))) == 1
    assert not list(cache.glob("pixels/*.tmp"))
