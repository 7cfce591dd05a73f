"""Split manifest: hash, verification, explanation of differences."""

from __future__ import annotations

import dataclasses
import json

import pytest

from lungtune.data.manifest import Entries, Manifest
from lungtune.errors import DataError


def entries(*names: str, folder: str = "/data") -> Entries:
    return Entries(
        case_id=names,
        label=tuple("ab"[i % 2] for i in range(len(names))),
        group=names,
        sha1=tuple(f"{i:040x}" for i in range(len(names))),
        path=tuple(f"{folder}/{name}" for name in names),
    )


@pytest.fixture
def manifest() -> Manifest:
    parts = {"train": entries("x ü", "y"), "validation": entries("v"), "test": entries()}
    return Manifest(("a", "b"), parts, {"z": "unreadable"}, 0, 5, 0, "folder:/data", ("a note",))


def test_round_trip(manifest, tmp_path):
    path = tmp_path / "study" / "split.json"
    manifest.save(path, audit={"problems": []})
    loaded, audit = Manifest.read(path)
    assert loaded == manifest
    assert loaded.hash == manifest.hash
    assert audit == {"problems": []}
    assert [p.name for p in path.parent.iterdir()] == ["split.json"]


def test_hash_ignores_the_data_location(manifest):
    parts = {**manifest.parts, "train": entries("x ü", "y", folder="/elsewhere")}
    moved = dataclasses.replace(manifest, parts=parts, source="folder:/elsewhere", notes=())
    assert moved.hash == manifest.hash
    manifest.verify(moved)


@pytest.mark.parametrize("column", ["case_id", "label", "group", "sha1"])
def test_hash_covers_every_column(manifest, column):
    train = manifest.parts["train"]
    changed = dataclasses.replace(train, **{column: ("new", *getattr(train, column)[1:])})
    assert dataclasses.replace(manifest, parts={**manifest.parts, "train": changed}).hash != manifest.hash


@pytest.mark.parametrize("change", [{"seed": 1}, {"fold": 1}, {"folds": 4}, {"excluded": {}}, {"classes": ("b", "a")}])
def test_hash_covers_the_rest(manifest, change):
    assert dataclasses.replace(manifest, **change).hash != manifest.hash


def test_verify_names_what_changed(manifest):
    changed = dataclasses.replace(entries("x ü", "w"), sha1=("f" * 40, "1" * 40))
    other = dataclasses.replace(manifest, parts={**manifest.parts, "train": changed})
    message = r"1 images are missing \(first: y\); 1 images are new \(first: w\); 1 images changed .*first: x ü"
    with pytest.raises(DataError, match=message):
        manifest.verify(other)
    with pytest.raises(DataError, match="seed, folds, classes or left-out cases differ"):
        manifest.verify(dataclasses.replace(manifest, seed=3))


def test_an_edited_manifest_is_refused(manifest, tmp_path):
    path = tmp_path / "split.json"
    manifest.save(path)
    content = json.loads(path.read_text())
    content["parts"]["train"]["label"][0] = "b"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="must not be edited"):
        Manifest.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a split manifest, but it is not"),
        ("[]", "must be a split manifest, but it is not"),
        ('{"schema": 1}', "must be a split manifest, but it is not: KeyError"),
        ('{"schema": 99}', "of schema 1, but got 99"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    path = tmp_path / "split.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        Manifest.load(path)


def test_a_torn_manifest_is_refused(manifest, tmp_path):
    path = tmp_path / "split.json"
    manifest.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="must be a split manifest"):
        Manifest.load(path)


def test_a_missing_manifest(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Manifest.load(tmp_path / "split.json")
