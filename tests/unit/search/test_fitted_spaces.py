"""Spaces are fitted to the data before a study is begun; nothing is rendered for it."""

from __future__ import annotations

import pytest
from rich.console import Console

from lungtune.errors import SpaceError
from lungtune.search import preparation, study_data


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def prepared(**options):
    asked = preparation.Options(space="clip_lora", data="phantom,labels=yes", **options)
    return preparation.new(asked, Console(quiet=True), lambda space: None)


def test_a_bank_is_refused_for_several_labels(home, monkeypatch):
    monkeypatch.setattr(study_data, "check_bank", lambda folder: None)
    with pytest.raises(SpaceError, match="--bank is given, but synthetic images are images of a class, and multilabel"):
        prepared(bank=home / "bank")
    assert not (home / "cache").exists()
    assert not list(home.glob("studies/*"))


def test_traits_of_phantoms_need_no_rendering(home):
    assert study_data.traits("phantom", None) == {"label", "mask", "text"}
    assert study_data.traits("phantom,labels=yes,uncertain=0.1", None) == {"labels", "uncertain", "mask", "text"}
    assert not (home / "cache").exists()
