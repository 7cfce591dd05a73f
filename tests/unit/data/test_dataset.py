"""Data set from source to pixels, labels and patients; the test part stays closed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from lungtune.core.fields import IMAGE, LABEL
from lungtune.data import scan, store
from lungtune.data.dataset import inspect, load
from lungtune.data.readers import images
from lungtune.data.sources import absolute
from lungtune.errors import DataError

WANTED = (IMAGE, LABEL)


@pytest.fixture
def source(write, tmp_path):
    for part, per in (("train", 30), ("test", 6)):
        for number, label in enumerate(("normal", "viral")):
            for i in range(per):
                write(f"{part}/{label}/p{i}_{part}.png", 1000 * number + 100 * (part == "test") + i)
    return f"folder:{tmp_path / 'data'},patient=^(p\\d+_[a-z]+)"


@pytest.fixture
def forbidden(monkeypatch):
    """Fail when an image is opened."""

    def no(*_):
        raise AssertionError("an image was opened")

    for module, name in ((store, "read"), (scan, "facts")):
        monkeypatch.setattr(module, name, no)


def test_load(source):
    data = load(inspect(source), WANTED, 16)
    assert data.classes == ("normal", "viral")
    assert data.test is None
    assert data.source == source
    assert data.train["image"].shape == (len(data.train), 1, 16, 16)
    assert data.train["label"].dtype == np.int64
    assert len(data.train) + len(data.validation) == 60
    for part in (data.train, data.validation):
        assert set(part["label"]) == {0, 1}
        for case, label, patient in zip(part.case_ids, part["label"], part.patients, strict=True):
            assert case.split("/")[1] == data.classes[label]
            assert case.split("/")[2].startswith(patient)
    assert not set(data.train.patients) & set(data.validation.patients)


def test_pixels_belong_to_their_cases(source, tmp_path):
    data = load(inspect(source), WANTED, 16)
    for row in (0, 7, len(data.train) - 1):
        path = tmp_path / "data" / data.train.case_ids[row]
        assert np.array_equal(data.train["image"][row, 0], images.letterboxed(path.read_bytes(), 16))


def test_test_images_are_decoded_only_on_demand(source, cache):
    inspection = inspect(source)
    load(inspection, WANTED, 16)
    assert not list(cache.glob("pixels/test-*"))
    opened = load(inspection, WANTED, 16, test=True).test
    assert len(opened) == 12
    assert list(cache.glob("pixels/test-*"))


def test_saved_split_opens_without_opening_images(source, tmp_path, request):
    inspection = inspect(source)
    inspection.save(tmp_path / "split.json")
    first = load(inspection, WANTED, 16)
    request.getfixturevalue("forbidden")
    again = load(tmp_path / "split.json", WANTED, 16)
    assert np.array_equal(again.train["image"], first.train["image"])
    assert np.array_equal(again.validation["label"], first.validation["label"])
    assert again.manifest == first.manifest
    assert again.audit == first.audit


def test_the_saved_file_survives_the_cache(source, tmp_path, cache):
    inspection = inspect(source)
    inspection.save(tmp_path / "split.json")
    first = np.array(load(inspection, WANTED, 16).train["image"])
    shutil.rmtree(cache)
    assert np.array_equal(load(tmp_path / "split.json", WANTED, 16).train["image"], first)


def test_an_image_changed_since_the_study_began_is_reported(source, tmp_path, cache, write):
    inspect(source).save(tmp_path / "split.json")
    write("train/viral/p3_train.png", 77)
    with pytest.raises(DataError, match=r"p3_train\.png must be the one that was scanned"):
        load(tmp_path / "split.json", WANTED, 16)


def test_manifest_without_audit_is_audited_again(source):
    inspection = inspect(source)
    assert load(inspection.manifest, WANTED, 16).audit == inspection.audit


def test_problems_stop_loading(source, tmp_path):
    (tmp_path / "data/train/viral/p3_train.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 72 are not: .*p3_train\.png is empty"):
        load(inspect(source), WANTED, 16)


def test_inspection_is_the_same_in_another_folder(source, tmp_path):
    first = inspect(source).manifest
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    moved = inspect(source.replace("data", "moved")).manifest
    assert moved.hash == first.hash
    first.verify(moved)


def test_relative_sources_become_absolute(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspect("folder:data,official=no").source == f"folder:{tmp_path / 'data'},official=no"
    assert absolute("phantom,n=300") == "phantom,n=300"


def test_seed_and_fold_change_validation_only(source):
    base = inspect(source).manifest
    for other in (inspect(source, seed=1).manifest, inspect(source, fold=1).manifest):
        assert other.parts["test"] == base.parts["test"]
        assert other.parts["validation"] != base.parts["validation"]
