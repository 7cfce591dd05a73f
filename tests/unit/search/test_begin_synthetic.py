"""Synthetic images of a search: errors are reported up front; a study keeps its first images."""

from __future__ import annotations

import dataclasses
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lungtune import catalog
from lungtune.core import synthetic
from lungtune.core.paths import ROOT
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.data import dataset
from lungtune.data.synthetic_bank import Item, SyntheticBank
from lungtune.errors import STOPPED, DataError, MachineError, SpaceError, StudyError
from lungtune.search import bank_provision, device_session, preparation

SOURCE = "phantom,n=84,test=36,size=32"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of the test's own."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(cache))


def fill(bank: SyntheticBank, per_class: int) -> None:
    random = np.random.default_rng(per_class)
    new = [Item(*each, "a chest", 0, random.integers(0, 256, (16, 16), np.uint8)) for each in bank.missing(per_class)]
    bank.add(new)


@pytest.fixture
def bank(tmp_path: Path) -> SyntheticBank:
    """Bank of twelve images per class for the data split with seed 3."""
    manifest = dataset.inspect(SOURCE, seed=3).manifest
    about = {"key": "ab" * 16, "generator": {"recipe": "sd-1.yaml"}, "size": 16, "seed": 0}
    made = SyntheticBank.create(tmp_path / "bank", classes=manifest.classes, train_hash=manifest.train_hash, **about)
    fill(made, 12)
    return made


def begin(bank: Path | None, seed: int = 3, **settings: Any) -> tuple[Study, SearchSpace, Any]:
    options = preparation.Options(
        space="clip_head", profile="demo", data=SOURCE, study="x", seed=seed, settings=settings, bank=bank
    )
    return preparation.new(options, Console(quiet=True), lambda space: None)


@pytest.mark.parametrize("code", [0, 1, STOPPED])
def test_search_without_a_bank_builds_one_first(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    commands: list[list[str]] = []

    def made(command: list[str], env: dict[str, str]) -> tuple[int, str]:
        commands.append(command[2:])
        return code, f"making ...\n{bank.folder}\n"

    monkeypatch.setattr(bank_provision, "_finished", made)
    if code == STOPPED:
        with pytest.raises(MachineError, match="what was drawn is kept"):
            begin(None, synthetic_ratio=[0, 0.5])
        assert not Study.names()
    elif code:
        needs = r"clip_head needs synthetic images, but none could be generated .*--bank DIR"
        with pytest.raises(DataError, match=needs):
            begin(None, synthetic_ratio=[0, 0.5])
        assert not Study.names()
    else:
        study, _, data = begin(None, synthetic_ratio=[0, 0.5])
        study.release()
        counts = study.history().study["data"]["bank"]["counts"]
        assert commands[0][-2:] == ["--per-class", ",".join(f"{name}={count}" for name, count in counts.items())]
        assert len(data.synthetic) == sum(study.history().study["data"]["bank"]["counts"].values())


def test_bank_that_no_trial_uses_is_refused(bank: SyntheticBank) -> None:
    for settings in ({}, {"synthetic_ratio": 1, "synthetic_images": "duplicates"}):
        with pytest.raises(SpaceError, match=r"--bank is given, but no trial of clip_head uses synthetic images; did"):
            begin(bank.folder, **settings)
    assert not Study.names()


def test_the_script_takes_a_bank(
    bank: SyntheticBank, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["search.py", "--space", "clip_head", "--profile", "demo", "--bank", str(bank.folder)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "scripts" / "search.py"), run_name="__main__")
    assert "--bank is given, but no trial of clip_head uses synthetic images" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "classes", "found"), [("volume", ("a", "b"), "volumes"), ("image", (), "no classes")])
def test_no_bank_of_volumes_or_without_classes(
    kind: str, classes: tuple[str, ...], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_provision, "_finished", lambda *_, **__: pytest.fail("a bank is made"))
    space = catalog.space("clip_head", "demo", {"synthetic_ratio": 1.0})
    manifest = SimpleNamespace(kind=kind, classes=classes, source="table:t.csv")
    with pytest.raises(
        DataError, match=rf"but table:t\.csv holds {found}; leave them out with --set synthetic_ratio=0"
    ):
        bank_provision.bank(space, SimpleNamespace(manifest=manifest), None, "demo", Console(quiet=True))  # type: ignore[arg-type]


def test_duplicates_alone_need_no_bank() -> None:
    study, _, data = begin(None, synthetic_ratio=1, synthetic_images=["duplicates", "none"])
    study.release()
    assert data.synthetic is None
    assert "bank" not in study.history().study["data"]


def test_unusable_bank_begins_no_study(bank: SyntheticBank) -> None:
    with pytest.raises(DataError, match=r"is from another training fold \(.*show validation or test patients"):
        begin(bank.folder, seed=4, synthetic_ratio=0.5)
    with pytest.raises(
        DataError, match=r"ratio 2 needs \d+ of .* \(it has 12\), .*sd-1\.yaml --out .* --per-class \d\d"
    ):
        begin(bank.folder, synthetic_ratio=[0, 2], synthetic_balance=["uniform", "fill"])
    with pytest.raises(DataError, match="nowhere must be a bank of synthetic images, but does not exist"):
        begin(bank.folder / "nowhere", synthetic_ratio=0.5)
    (bank.folder / bank.entries(bank.classes[0])[0].file).write_bytes(b"")
    with pytest.raises(DataError, match=r"images/0/0\.png must be the generated one, but its content has changed"):
        begin(bank.folder, synthetic_ratio=0.5)
    assert not Study.names()


def test_a_study_keeps_the_first_images_of_its_bank(bank: SyntheticBank) -> None:
    study, space, data = begin(bank.folder, synthetic_ratio=[0, 0.5], synthetic_balance=["uniform", "fill"])
    study.release()
    needed = synthetic.needed(space, data.manifest.class_counts("train"))
    about = study.history().study["data"]["bank"]
    assert about["counts"] == needed
    assert (about["path"], about["key"]) == (str(bank.folder), bank.key)
    assert np.bincount(data.synthetic["label"]).tolist() == list(needed.values())

    def opened() -> Any:
        return device_session.open_session(study.folder, 1).sessions.on(*space.bases[0]).dataset.synthetic

    fill(bank, 16)  # a bank may grow
    assert np.array_equal(opened()["image"], data.synthetic["image"])
    options = preparation.Options(study="x", resume=True)
    study, _, again = preparation.resumed(options, Console(quiet=True), lambda space: None)
    study.release()
    assert np.array_equal(again.synthetic["image"], data.synthetic["image"])
    with pytest.raises(StudyError, match=r"a resumed study keeps its bank; leave --bank out"):
        preparation.resumed(dataclasses.replace(options, bank=bank.folder), Console(quiet=True), lambda space: None)
    entry = bank.entries(bank.classes[1])[0]
    (bank.folder / entry.file).unlink()
    bank.drop_damaged()
    fill(bank, 16)  # made anew, and not as it was
    for reopen in (opened, lambda: preparation.resumed(options, Console(quiet=True), lambda space: None)):
        with pytest.raises(DataError, match="must be those that were trained on"):
            reopen()
    shutil.rmtree(bank.folder)
    with pytest.raises(DataError, match=r"must be at .*bank, but is not there; put it back"):
        opened()
