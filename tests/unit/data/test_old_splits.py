"""Compatibility with splits of version 0.1: load, verify, match a fresh scan."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lungtune.core.fields import IMAGE, LABEL, TEXT
from lungtune.data.dataset import inspect, load, missing
from lungtune.data.manifest import Manifest
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
