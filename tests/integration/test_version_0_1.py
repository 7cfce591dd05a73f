"""Compatibility with studies of version 0.1: open, resume, export, track."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtune import catalog, export, summary
from lungtune.core import recipe
from lungtune.core.study import Study
from lungtune.data.manifest import Manifest
from lungtune.search import study_data
from lungtune.tracking import sync
from tests.integration import version_0_1 as old


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory):
    """All artefacts of 0.1, read-only; tests write elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        yield old.settle(tmp_path_factory.mktemp("home"), patch)


def patients(study: Study) -> np.ndarray:
    return np.asarray(Manifest.load(study.split_path).parts["validation"].group)


def scores(events: list[dict[str, Any]]) -> dict[tuple[int, float], float]:
    reports = (event for event in events if event["event"] == "report")
    return {(event["trial"], event["fidelity"]): event["metrics"]["macro_f1"] for event in reports}


@pytest.mark.parametrize("name", old.STUDIES)
def test_summary_has_every_field_as_0_1_wrote_it(home: Path, name: str) -> None:
    study = Study.open(name)
    before = json.loads(study.summary_path.read_text())
    assert before["best"]["value"] is not None
    assert before["best"]["corrected"]["value"] is not None
    assert old.differences(before, summary.build(study, patients(study))) == []


def test_leaderboard_has_the_numbers_of_0_1(home: Path, tmp_path: Path) -> None:
    old.unpack(tmp_path, old.cache(), "studies/both/")
    study = Study(tmp_path / "studies" / "both")
    before = (study.folder / "leaderboard.md").read_text()
    assert summary.write(study, patients(study))["leaderboard"] is not None
    assert old.facts((study.folder / "leaderboard.md").read_text()) == old.facts(before)


def test_reading_changes_nothing_of_a_study(home: Path, tmp_path: Path) -> None:
    study = Study.open("killed")
    before = study.journal_path.read_bytes()
    assert [trial.state.value for trial in study.history().trials.values()] == [
        "RUNNING",
        "PAUSED",
        "PAUSED",
        "RUNNING",
    ]
    summary.build(study, patients(study))
    export.export("killed", out=tmp_path)
    assert study.journal_path.read_bytes() == before


@pytest.mark.parametrize("name", old.STUDIES)
def test_export_writes_the_recipes_of_0_1(home: Path, tmp_path: Path, name: str) -> None:
    compared = 0
    for path in export.export(name, top=3, out=tmp_path):
        before = home / "recipes" / path.name
        if not before.exists():
            continue
        compared += 1
        was, now = catalog.space(str(before)), catalog.space(str(path))
        for part in ("family", "objective", "fidelity", "base", "fixed", "seed", "data"):
            assert getattr(now, part) == getattr(was, part), part
        reported = dict(was.provenance)
        del reported["exported"]
        assert old.differences(reported, dict(now.provenance)) == []
    assert compared >= 1


def test_recipes_of_0_1_have_the_fingerprint_they_state(home: Path) -> None:
    paths = sorted((home / "recipes").glob("*.yaml"))
    assert len(paths) == 10
    for path in paths:
        space = catalog.space(str(path))
        origin = recipe.provenance(space, path)
        assert recipe.fingerprint(space, origin.fidelity, origin.split, origin.bank) == origin.fingerprint, path.name


def test_study_opens_the_bank_it_trained_on(home: Path) -> None:
    study = Study.open("mixed")
    bank = study_data.reopen_bank(study.history())
    assert bank is not None
    bank.verify()
    bank.check_training_fold(Manifest.load(study.split_path))
    assert bank.to_dict() == study.history().study["data"]["bank"]


@pytest.mark.parametrize("name", [*old.STUDIES, "killed"])
def test_mlflow_holds_the_reports_of_a_0_1_study(home: Path, tmp_path: Path, furnish, name: str) -> None:
    from mlflow import MlflowClient

    old.unpack(tmp_path, old.cache(), f"studies/{name}/")
    folder, uri = tmp_path / "studies" / name, furnish(tmp_path / "mlflow.db")
    delivery = sync(folder, uri)
    assert delivery, delivery.sentence
    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    result = {run.data.tags["lungtune.trial"]: run for run in runs if "lungtune.trial" in run.data.tags}
    events = old.events(folder)
    metric = events[0]["space"]["objective"]["metric"]
    wanted = Counter(str(event["trial"]) for event in events if event["event"] == "report")
    got = {key: len(client.get_metric_history(run.info.run_id, metric)) for key, run in result.items()}
    assert {key: count for key, count in got.items() if count} == wanted
    assert len(result) == sum(event["event"] == "trial" for event in events)


def test_killed_study_resumes_to_its_end(tmp_path: Path, monkeypatch, furnish, door) -> None:
    old.settle(tmp_path, monkeypatch, "studies/head/", "studies/killed/")
    (tmp_path / "studies" / "head").rename(tmp_path / "ended")
    folder = (tmp_path / "studies" / "killed").rename(tmp_path / "studies" / "head")
    furnish(tmp_path / "mlflow" / "state" / "mlflow.db")
    before, text = old.events(folder), (folder / "journal.jsonl").read_bytes()

    left = door("search", "--resume", "--study", "head")

    assert left.code == 0, left.out + left.err
    assert (folder / "journal.jsonl").read_bytes().startswith(text)
    events = old.events(folder)
    assert [event["trial"] for event in events if event["event"] == "trial"] == list(range(6))
    assert sorted(event["trial"] for event in events if event["event"] == "end") == list(range(6))
    states = [event["state"] for event in events if event["event"] == "end"]
    assert set(states) <= {"COMPLETE", "PRUNED"}, states
    starts = [(event["trial"], event["fidelity"]) for event in events[len(before) :] if event["event"] == "start"]
    assert (0, 1.0) in starts, "trial 0 goes on from its last checkpoint"
    reports = [(event["trial"], event["fidelity"]) for event in events if event["event"] == "report"]
    assert len(reports) == len(set(reports)), "nothing is trained twice"
    ended, now = scores(old.events(tmp_path / "ended")), scores(events)
    assert now.keys() >= {each for each in ended if each[0] == 0}
    for each in now.keys() & ended.keys():  # 0.1 resumed a copy of the same study
        if each[0] < 4:
            assert now[each] == pytest.approx(ended[each], abs=1e-6), each
    assert json.loads((folder / "summary.json").read_text())["best"]["value"] == max(now.values())


def test_finished_study_is_extended_by_a_trial(tmp_path: Path, monkeypatch, furnish, door) -> None:
    """Its space is of two families, so members, suggestions and the scheduler's state are read back too."""
    folder = old.settle(tmp_path, monkeypatch, "studies/both/") / "studies" / "both"
    furnish(tmp_path / "mlflow" / "state" / "mlflow.db")
    before = summary.build(Study(folder), patients(Study(folder)))["trials"]

    left = door("search", "--resume", "--study", "both", "--trials", "5")

    assert left.code == 0, left.out + left.err
    trials = json.loads((folder / "summary.json").read_text())["trials"]
    assert [trial["number"] for trial in trials] == list(range(5))
    assert (
        old.differences(
            [each for each in before if each["state"] == "COMPLETE"],
            [trials[each["number"]] for each in before if each["state"] == "COMPLETE"],
        )
        == []
    )
