"""Compatibility with splits of version 0.1: load, verify, match a fresh scan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lungtune import reopen
from lungtune.core import paths
from lungtune.core.fields import IMAGE, LABEL, TEXT
from lungtune.core.recipe import Provenance
from lungtune.data.dataset import inspect, load, missing
from lungtune.data.manifest import Entries, Manifest
from lungtune.errors import DataError

FILE = Path(__file__).parents[2] / "fixtures" / "split-0.1.json"
"""Of `phantom,n=150,test=60`, seed 0; the paths in it are gone."""


@pytest.fixture
def old() -> Manifest:
    return Manifest.load(FILE)


@pytest.fixture
def fresh():
    return inspect("phantom,n=150,test=60")


def test_old_file_loads_without_new_columns(old):
    assert old.hash == json.loads(FILE.read_text())["hash"]
    assert (old.kind, old.label_names, old.columns) == ("image", (), ())
    assert old.has("mask")
    assert not old.has("text")
    assert "captions" not in old.hash


def test_fresh_inspection_matches_old_hash(old, fresh):
    assert fresh.manifest.has("text")
    assert fresh.manifest.hash != old.hash
    assert fresh.manifest.without("text").hash == old.hash
    assert fresh.manifest.matches(old.hash)
    assert fresh.manifest.matches(old.without("mask").hash)
    assert fresh.manifest.train_hash == old.train_hash
    old.verify(fresh.manifest)


def test_new_split_is_not_verified_by_an_old_one(old, fresh):
    with pytest.raises(DataError, match="changed their content, label, group, part or mask or text"):
        fresh.manifest.verify(old)


def test_other_data_match_no_old_hash(old, fresh):
    assert not dataclasses.replace(fresh.manifest, seed=1).matches(old.hash)


def test_old_split_opens_the_same_pixels(old, fresh, tmp_path):
    here = {case: path for e in fresh.manifest.parts.values() for case, path in zip(e.case_id, e.path, strict=True)}
    parts = {
        name: dataclasses.replace(e, path=tuple(here[case] for case in e.case_id)) for name, e in old.parts.items()
    }
    moved = dataclasses.replace(old, parts=parts)
    moved.save(tmp_path / "split.json", audit=fresh.audit.to_dict())
    before, after = load(tmp_path / "split.json", [IMAGE, LABEL], 16), load(fresh, [IMAGE, LABEL], 16)
    assert before.train["image"].filename == after.train["image"].filename
    assert (before.train["label"] == after.train["label"]).all()


def test_old_split_lacks_texts(old):
    assert missing(old, [IMAGE, TEXT], "bert").startswith("bert needs a text of each case, but phantom,n=150")


def regrouped(manifest: Manifest, **changes: tuple[str, ...]) -> Manifest:
    """Return a split as an earlier detection of near-copies would have drawn it: other groups in training."""
    train = manifest.parts["train"]
    changed = dataclasses.replace(train, **({"group": tuple(f"old {name}" for name in train.group)} | changes))
    return dataclasses.replace(manifest, parts={**manifest.parts, "train": changed})


def test_stored_split_of_the_same_images_is_kept(fresh):
    gone = tuple("/gone" for _ in fresh.manifest.parts["train"].path)
    stored = regrouped(fresh.manifest, path=gone)
    kept = fresh.with_split(stored)
    assert kept.manifest.hash == stored.hash != fresh.manifest.hash
    assert kept.manifest.parts["train"].path == fresh.manifest.parts["train"].path
    assert kept.audit.problems == ()


def test_stored_split_of_other_images_is_not_kept(fresh):
    digests = fresh.manifest.parts["train"].sha1
    assert fresh.with_split(regrouped(fresh.manifest, sha1=("0" * 40, *digests[1:]))) is fresh
    fewer = {**fresh.manifest.parts, "test": Entries((), (), (), (), ())}
    assert fresh.with_split(dataclasses.replace(fresh.manifest, parts=fewer)) is fresh


def test_recipe_of_an_old_study_keeps_its_split(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    stored = regrouped(fresh.manifest)
    folder = paths.studies() / "renamed"
    folder.mkdir(parents=True)
    origin = Provenance("old", "id", 0, 1.0, stored.hash, 0, 0.5, "")
    with pytest.raises(DataError, match="must hold the split the recipe was searched on"):
        reopen.inspect(None, origin, "phantom,n=150,test=60", False)
    (folder / "journal.jsonl").write_text('{"event": "study", "time": 0, "id": "id", "name": "old"}\n')
    stored.save(folder / "split.json")
    assert reopen.inspect(None, origin, "phantom,n=150,test=60", True).manifest.hash == stored.hash
