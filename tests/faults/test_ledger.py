"""The test set's lock under renaming, copying, editing and damage, on real files and trained recipes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lungtune import reopen
from lungtune.core import journal
from lungtune.core.ledger import BESIDE, NAME
from lungtune.core.study import Study
from lungtune.data import dataset
from lungtune.export import export
from lungtune.retrain import retrain
from lungtune.tracking.projection import Projection
from tests.integration import retrain_study


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A folder of images, a study of it in a home, and the opening of its test set by the study's best recipe."""
    root = tmp_path_factory.mktemp("opened")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("LUNGTUNE_CACHE", str(root / "drawn"))
        manifest = dataset.inspect(retrain_study.SOURCE, seed=3).manifest
        for part, entries in manifest.parts.items():
            for case, label, path in zip(entries.case_id, entries.label, entries.path, strict=True):
                target = root / "data" / ("test" if part == "test" else "train") / label / f"{Path(case).name}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        settle(root, patch.setenv)
        patch.setattr(retrain_study, "SOURCE", f"folder:{root / 'data'},patient=none")
        retrain_study.make("mini", root / "tiny")
        done = retrain(export("mini", top=2)[0], test=True)
    assert done.content["opening"]["number"] == 1
    return root


def settle(root, environment):
    environment("LUNGTUNE_HOME", str(root / "home"))
    environment("LUNGTUNE_CACHE", str(root / "cache"))


@pytest.fixture
def place(opened, tmp_path, monkeypatch):
    """A copy of home, cache and data, at the same places as far as lungtune is told."""
    for name in ("home", "cache", "data"):
        shutil.copytree(opened / name, tmp_path / name)
    settle(tmp_path, monkeypatch.setenv)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def recipe(place, rank=2):
    return place / "home" / "recipes" / f"mini-{rank}.yaml"


def data(place):
    return f"folder:{place / 'data'},patient=none"


def refused(left, says=r"It opens once; choosing among test scores"):
    assert (left.code, left.out) == (2, ""), left
    assert re.search(says, left.err), left.err
    assert "Traceback" not in left.err


def test_every_file_holds_the_opening(place):
    files = [place / "home" / "studies" / "mini" / "ledger.jsonl", place / "home" / NAME, place / "cache" / NAME]
    files += (place / "data").glob(f"{BESIDE}*.jsonl")
    assert len(files) == 4
    for file in files:
        assert [each["event"] for each in journal.read(file)] == ["opened", "result"]
    model = place / "home" / "models" / "mini-1"
    for text in ("report.md", "test_report.md", "recipe.yaml", "weights/README.md"):
        assert "opening 1 of this test part" in (model / text).read_text()
    reopen.load(model / "recipe.yaml")


def renamed(place):
    (place / "home" / "studies" / "mini").rename(place / "home" / "studies" / "other")


def edited_id(place):
    edit(recipe(place), "study_id: ", 'study_id: "0123" # ')


def deleted_study(place):
    shutil.rmtree(place / "home" / "studies" / "mini")


def other_home(place):
    (place / "home").rename(place / "old")
    (place / "home" / "recipes").mkdir(parents=True)
    shutil.copy(place / "old" / "recipes" / "mini-2.yaml", recipe(place))


def other_machine(place):
    """The data folder was copied there with all that it holds, and the recipe; nothing else."""
    other_home(place)
    (place / "cache").rename(place / "cache-of-the-first")


def only_the_cache(place):
    other_home(place)
    for file in (place / "data").glob(f"{BESIDE}*"):
        file.unlink()


def copied_study(place):
    """The copy has another id and name; its recipe is exported anew."""
    source, copy = place / "home" / "studies" / "mini", place / "home" / "studies" / "copy"
    shutil.copytree(source, copy)
    first, *rest = (source / "journal.jsonl").read_text().splitlines(keepends=True)
    head = json.loads(first) | {"id": "f" * 32, "name": "copy"}
    (copy / "journal.jsonl").write_text(json.dumps(head, separators=(",", ":")) + "\n" + "".join(rest))
    (copy / "ledger.jsonl").unlink()
    export("copy", top=2)[1].replace(recipe(place))


def edit(path, before, after):
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


SAME = [renamed, edited_id, deleted_study, other_home, other_machine, only_the_cache, copied_study]


@pytest.mark.parametrize("change", SAME)
def test_the_same_question_stays_refused(place, door, fault, change):
    with fault(f"test set opened, then: {change.__name__.replace('_', ' ')}", "refused: who opened it, when, result"):
        change(place)
        left = door("retrain", recipe(place), "--test", "--data", data(place))
        refused(left)
        assert "the test set of the study 'mini' was opened on" in left.err
        assert "opening 1 of this test part, by " in left.err
        assert not (place / "home" / "models" / "mini-2").exists()


@pytest.mark.parametrize("where", ["home", "cache", "data"])
def test_damaged_ledger_is_named(place, door, fault, where):
    if where == "data":
        other_machine(place)
    file = next((place / "data").glob(f"{BESIDE}*")) if where == "data" else place / where / NAME
    with fault(f"test set's ledger damaged ({where})", "refused: the file and how to mend it"):
        file.write_text('{"event":"opened"}\n')
        left = door("retrain", recipe(place), "--test", "--data", data(place))
        refused(left, rf"stays locked, because its ledger is damaged: line 1 of {file} .* Put the file back from a")


def test_another_study_opens_it_a_second_time_and_says_so(place, door, fault, monkeypatch):
    monkeypatch.setattr(retrain_study, "SOURCE", data(place))
    retrain_study.make("second", place / "tiny")
    path = export("second", top=2)[1]
    assert "opened 1 times before this export, last on 20" in path.read_text()
    with fault("another study opens the same test set", "allowed and numbered; told in report, recipe, README, MLflow"):
        left = door("retrain", path, "--test")
        assert left.code == 0, left.err
        words = r"pening 2 of this test part; before: opening 1 on "
        assert "O" + words in left.err
        assert f"test: o{words}" in left.out
        model = place / "home" / "models" / "second-2"
        for text in ("test_report.md", "recipe.yaml", "weights/README.md"):
            assert words in (model / text).read_text()
        content = json.loads((model / "test_report.json").read_text())["opening"]
        assert (content["number"], content["before"][0]["name"]) == (2, "mini")
        projection = Projection()
        for event in journal.read(Study.open("second").journal_path):
            projection.feed(event)
        assert projection.ignored == 0
        assert words in projection.runs["study"].tags["test"]
        refused(door("retrain", path, "--test"), r"study 'second' was opened on .* opening 2 of this test part, by")
