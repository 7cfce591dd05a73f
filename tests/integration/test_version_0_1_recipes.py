"""Compatibility with recipes, ledgers, banks and models of version 0.1."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lungtune import reopen
from lungtune.core.ledger import Ledger
from lungtune.data import dataset
from lungtune.data.synthetic_bank import SyntheticBank
from lungtune.errors import DataError, StudyError
from lungtune.retrain import retrain
from lungtune.synthesize import synthesize
from tests.integration import version_0_1 as old

DEFAULT_KEY = "fc931772ee03406c67de05716ad9bb3c9b698c3a666e9829f418c11b06cea707"
"""Key that 0.1 gave the bank of these phantoms that is made without a recipe."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return old.settle(tmp_path / "home", monkeypatch)


def checked(path: Path) -> None:
    """Retrain a recipe; it must reproduce, but for what another processor's rounding changes in a case."""
    report = retrain(path)
    assert report.reproduced == "yes", report.text
    reproduction = report.content["reproduction"]
    assert not reproduction["edited"]
    assert reproduction["retrained"] == pytest.approx(reproduction["searched"], rel=0.02)
    assert (report.weights / "README.md").is_file()


@pytest.mark.parametrize("name", ["head-1", "mixed-2", "lora-1"])
def test_recipe_of_0_1_reproduces(home: Path, name: str) -> None:
    checked(home / "recipes" / f"{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head-2", "both-1", "mixed-1", "mixed-3", "convnext-1", "unet-1", "gen-1"])
def test_further_recipe_of_0_1_reproduces(home: Path, name: str) -> None:
    checked(home / "recipes" / f"{name}.yaml")


@pytest.mark.parametrize("name", ["head-1", "head-2"])
def test_test_part_stays_locked_after_0_1_opened_it(home: Path, name: str) -> None:
    message = r"was opened on 2026-11-29 23:26:44 by head-1\.yaml: macro_f1 0\.832"
    with pytest.raises(StudyError, match=message):
        retrain(home / "recipes" / f"{name}.yaml", test=True)
    assert not (home / "models" / name).exists()


def test_ledger_of_0_1_next_to_a_recipe_is_read(home: Path) -> None:
    (home / "studies" / "head" / "ledger.jsonl").rename(home / "recipes" / "ledger.jsonl")
    with pytest.raises(StudyError, match=r"was opened on 2026-11-29 23:26:44 by head-1\.yaml"):
        retrain(home / "recipes" / "head-2.yaml", test=True)


def test_opening_without_result_lets_its_recipe_go_on(home: Path) -> None:
    ledger = home / "studies" / "head" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().splitlines(keepends=True)[0])
    for name, refused in (("head-1", False), ("head-2", True)):
        path = home / "recipes" / f"{name}.yaml"
        _, origin = reopen.load(path)
        book: Ledger = reopen.ledger_of(path, origin)
        if refused:
            with pytest.raises(StudyError, match="ended without a result; only that recipe"):
                book.check(origin.fingerprint)
        else:
            book.check(origin.fingerprint)


def test_unreadable_journal_does_not_unlock_the_test_part(home: Path) -> None:
    journal = home / "studies" / "head" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    lines[0] = lines[0].replace('"schema":1', '"schema":9')
    journal.write_text("".join(lines))
    with pytest.raises(StudyError, match="must be of schema 2 or older, but is of schema 9"):
        retrain(home / "recipes" / "head-2.yaml", test=True)


def test_bank_of_0_1_is_whole_and_of_its_fold(home: Path) -> None:
    bank = SyntheticBank.open(home / "banks" / "gen")
    bank.verify()
    assert set(bank.counts().values()) == {25}
    bank.check_training_fold(dataset.inspect(old.SOURCE, seed=0).manifest)
    with pytest.raises(DataError, match="is from another training fold"):
        bank.check_training_fold(dataset.inspect(old.SOURCE, seed=1).manifest)


def test_recipe_of_0_1_goes_on_with_its_bank(home: Path) -> None:
    folder = home / "banks" / "gen"
    before = (folder / "images.jsonl").read_bytes()
    assert synthesize(home / "recipes" / "gen-1.yaml", 25, out=folder) == folder
    assert (folder / "images.jsonl").read_bytes() == before


def test_bank_made_without_a_recipe_keeps_its_key(home: Path) -> None:
    """Texts, which these data had not in 0.1, must not count."""
    folder = (home / "banks" / "gen").rename(home / "banks" / f"sd_lora-start-{DEFAULT_KEY[:8]}")
    about = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(about | {"key": DEFAULT_KEY}))
    assert synthesize(per_class=25, data=old.SOURCE, profile="demo") == folder


@pytest.mark.slow
def test_bank_of_0_1_grows_by_the_same_generator(home: Path) -> None:
    folder = home / "banks" / "gen"
    before = (folder / "images.jsonl").read_bytes()
    (folder / "images" / "0" / "3.png").unlink()
    synthesize(home / "recipes" / "gen-1.yaml", {"normal": 26}, out=folder)
    bank = SyntheticBank.open(folder)
    assert bank.counts() == dict.fromkeys(bank.classes, 25) | {"normal": 26}
    was = {line["file"]: line["sha256"] for line in map(json.loads, before.decode().splitlines())}
    now = {entry.file: entry.sha256 for entry in bank.entries("normal")}
    assert now["images/0/3.png"] == was["images/0/3.png"], "made anew, it is the image that 0.1 drew"


def test_model_of_0_1_runs_by_its_own_snippet(home: Path) -> None:
    weights = home / "models" / "both-1" / "weights"
    result = re.search(r"```python\n(.*?)```", (weights / "README.md").read_text(), re.DOTALL)
    assert result is not None
    picture = next(iter(sorted(old.cache().glob("phantom/*/images/test/covid/*"))))
    command = [sys.executable, "-c", result[1], str(weights), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == json.loads((weights / "classes.json").read_text())["classes"]
    assert sum(answer.values()) == pytest.approx(1, abs=1e-5)
    assert max(answer, key=answer.__getitem__) == "covid"
