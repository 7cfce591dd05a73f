"""Faults of what lies between a journal and MLflow: homes, cursors, journals, clocks, deletions by hand."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lungtune.core.io import Lock
from lungtune.core.journal import Journal
from lungtune.tracking import Tracker, location, sync
from tests.faults.checker import check
from tests.integration import tracking_study

TRIALS = 5


@pytest.fixture
def home(tmp_path, monkeypatch, furnish):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_home(tmp_path / "home", monkeypatch, furnish)


def make_home(home: Path, monkeypatch, furnish) -> Path:
    monkeypatch.setenv("LUNGTUNE_HOME", str(home))
    furnish(home / "mlflow/state/mlflow.db")
    return home


def events(name="s", study_id="5" * 32):
    return list(tracking_study.script(TRIALS, name=name, study_id=study_id))


def deliver(folder: Path, uri: str | None = None):
    delivery = Tracker(folder, uri).start().stop(60)
    assert delivery, delivery.sentence


def logged(uri: str):
    """Client, and all runs of a store by (study, trial)."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()], max_results=1000)
    tags = [run.data.tags for run in runs]
    keys = [(each["lungtune.study_id"], each.get("lungtune.trial", "study")) for each in tags]
    return client, dict(zip(keys, runs, strict=True))


def whole(folder: Path) -> None:
    check(folder, uri=location.tracking_uri(), finished=False)


def test_two_homes_with_studies_of_one_name_stay_apart(home, tmp_path, fault):
    from lungtune.tracking import server, server_app

    with fault("two homes deliver studies of one name to one store", "views, pages and runs are told apart by id"):
        uri = location.tracking_uri()
        folders = [home / "studies/s", tmp_path / "other/studies/s"]
        for folder, letter in zip(folders, "ab", strict=True):
            tracking_study.write(folder, events(study_id=letter * 32))
            deliver(folder, uri)
        for folder in folders:
            check(folder, uri=uri, finished=False)
        client, runs = logged(uri)
        assert len(runs) == 2 * (TRIALS + 1)
        found = server_app.studies(client)
        assert [study.title for study in found] == ["s (aaaaaaaa)", "s (bbbbbbbb)"]
        tags = client.get_experiment(found[0].experiment).tags
        for study in found:
            view = json.loads(tags[f"mlflow.sharedViewState.{study.view}"])
            shown = client.search_runs([study.experiment], view["searchFilter"])
            assert {run.data.tags["lungtune.study_id"] for run in shown} == {study.id}
            assert len(shown) == TRIALS
        lines = server.pages(uri, "http://h")
        assert ["s-aaaaaaaa" in lines[0], "s-bbbbbbbb" in lines[1]] == [True, True]
        os.utime(folders[0] / "journal.jsonl")
        server_app._client.cache_clear()
        assert "s-aaaaaaaa" in server_app.first_page(uri), "of this home, and written last"


@pytest.mark.parametrize("name", ["a%41b", "a?b=c", "a#b", "a b", "ä'ö\"ü", "a;b&c+d@e"])
def test_home_whose_path_has_odd_characters_works(name, tmp_path, monkeypatch, furnish, fault):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with fault("the home's path holds %41, ?, #, spaces, umlauts, quotes", "as any other"):
        home = make_home(tmp_path / name / "home", monkeypatch, furnish)
        tracking_study.write(home / "studies/s", events())
        deliver(home / "studies/s")
        whole(home / "studies/s")
        assert list((home / "mlflow/state/artifacts").rglob("settings.json"))
        assert [each.name for each in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("leave", [False, True], ids=["moved", "copied"])
def test_files_of_a_moved_home_go_to_the_new_one(leave, home, tmp_path, monkeypatch, fault):
    with fault(f"the home is {'copied' if leave else 'moved'} while the study waits", "files go to the new folder"):
        todo = events()
        tracking_study.write(home / "studies/s", todo[:20])
        deliver(home / "studies/s")
        before = sorted(home.rglob("*.*"))
        moved = tmp_path / "new place"
        (shutil.copytree if leave else shutil.move)(home, moved)
        monkeypatch.setenv("LUNGTUNE_HOME", str(moved))
        tracking_study.write(moved / "studies/s", todo[20:])
        command = [sys.executable, "-m", "lungtune", "ui", "--sync", "s"]  # MLflow's client remembers folders
        assert "MLflow holds all of 's'" in subprocess.run(command, capture_output=True, text=True).stdout
        assert sorted(home.rglob("*.*")) == (before if leave else [])
        _, runs = logged(location.tracking_uri())
        parent = runs["5" * 32, "study"].info
        files = moved / "mlflow/state/artifacts" / parent.run_id / "artifacts"
        assert parent.artifact_uri == files.as_uri()
        assert {each.name for each in files.iterdir()} == {"plots.html", "settings.json", "space.yaml"}
        whole(moved / "studies/s")


@pytest.mark.parametrize("left", ["killed", "alive"])
def test_study_without_a_stop_waits_unless_its_driver_lives(left, home, fault):
    with fault("driver killed and never resumed, then a sync", "its runs wait; those of a live driver stay running"):
        driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        folder, todo = home / "studies/s", events()
        until = next(i for i, (kind, f) in enumerate(todo) if kind == "report" and f["trial"] == 2) + 1
        from lungtune.core import environment

        todo[1] = "open", {**environment.process(), "pid": driver.pid}
        tracking_study.write(folder, todo[:until])
        lock = Lock(folder / "driver.lock")
        assert lock.try_acquire()
        deliver(folder)
        if left == "killed":
            driver.kill()
            driver.wait()
            lock.release()
        assert sync(folder)
        _, runs = logged(location.tracking_uri())
        states = {runs["5" * 32, key].info.status for key in ("study", "2")}
        assert states == ({"SCHEDULED"} if left == "killed" else {"RUNNING"})
        driver.kill()
        driver.wait()
        if left == "alive":
            lock.release()
        tracking_study.write(folder, [("open", {"pid": 2, "host": "h"}), *todo[until:]])
        deliver(folder)
        whole(folder)
        _, runs = logged(location.tracking_uri())
        assert runs["5" * 32, "study"].info.status == "FINISHED"


def newer(cursor):
    return {**cursor, "schema": 9, "runs": {key: {**run, "added": 1} for key, run in cursor["runs"].items()}}


def odd(cursor):
    runs = {key: {**run, "events": "7", "files": [1]} for key, run in cursor["runs"].items()}
    return {**cursor, "runs": {**runs, "1": None, "2": 5, "3": {**cursor["runs"]["3"], "points": 10**9}}}


CURSORS = {
    "newer": lambda text: json.dumps(newer(json.loads(text))),
    "odd types": lambda text: json.dumps(odd(json.loads(text))),
    "of another study": lambda text: text.replace("5" * 32, "6" * 32),
    "truncated": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "nested": lambda text: "[" * 100_000,
    "not text": lambda text: "\udcff\udcfe",
    "runs of a list": lambda text: json.dumps({**json.loads(text), "runs": [1]}),
}


@pytest.mark.parametrize("kind", CURSORS)
def test_cursor_that_is_no_cursor_is_ignored(kind, home, fault):
    with fault(f"tracking.json is {kind}", "what it says is not believed; all is compared again"):
        folder, todo = home / "studies/s", events()
        tracking_study.write(folder, todo[:25])
        deliver(folder)
        cursor = folder / "tracking.json"
        cursor.write_text(CURSORS[kind](cursor.read_text()), errors="surrogateescape")
        tracking_study.write(folder, todo[25:])
        deliver(folder)
        whole(folder)


def test_journal_cut_while_the_tracker_runs_is_followed(home, fault):
    with fault("the journal is cut by the user while the tracker runs", "runs beyond the cut are made again"):
        folder, todo = home / "studies/s", events()
        tracking_study.write(folder, todo[:30])
        tracker = Tracker(folder).start()
        wait(lambda: not tracker.state().undelivered)
        lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:15]))
        tracking_study.write(folder, todo[15:])
        assert tracker.stop(60)
        whole(folder)
        assert len(logged(location.tracking_uri())[1]) == TRIALS + 1


def test_journal_cut_between_two_trackers_is_followed(home, fault):
    with fault("an older copy of the journal is put back", "MLflow goes back with it"):
        folder, todo = home / "studies/s", events()
        tracking_study.write(folder, todo)
        deliver(folder)
        lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "journal.jsonl").write_bytes(b"".join(lines[:20]))
        deliver(folder)
        whole(folder)
        tracking_study.write(folder, todo[20:])
        deliver(folder)
        whole(folder)


def test_clock_set_back_keeps_every_report(home, monkeypatch, fault):
    with fault("the clock goes backwards during the study", "every report once; the shown best is the best"):
        folder, clock = home / "studies/s", itertools.count(2_000_000_000, -1000)
        with monkeypatch.context() as patched:
            patched.setattr(time, "time", lambda: float(next(clock)))
            tracking_study.write(folder, events())
        deliver(folder)
        whole(folder)
        _, runs = logged(location.tracking_uri())
        parent = runs.pop(("5" * 32, "study"))
        scores = [run.data.metrics.get("best_macro_f1", 0) for run in runs.values()]
        assert parent.data.metrics["best_macro_f1"] == max(scores)
        assert all(run.info.end_time >= run.info.start_time for run in runs.values())


@pytest.mark.parametrize("what", ["run", "experiment", "experiment, then restored", "files"])
def test_what_was_deleted_by_hand_is_there_again(what, home, fault):
    with fault(f"deleted in MLflow while the tracker runs: {what}", "made again"):
        folder, todo = home / "studies/s", events()
        tracking_study.write(folder, todo[:25])
        tracker = Tracker(folder).start()
        wait(lambda: not tracker.state().undelivered)
        client, runs = logged(location.tracking_uri())
        info = runs["5" * 32, "study"].info
        if what == "run":
            client.delete_run(info.run_id)
            client.delete_run(runs["5" * 32, "0"].info.run_id)
        elif what == "files":
            shutil.rmtree(home / "mlflow/state/artifacts")
        else:
            client.delete_experiment(info.experiment_id)
        tracking_study.write(folder, todo[25:])
        assert tracker.stop(60)
        if "restored" in what:
            client.restore_experiment(info.experiment_id)
        whole(folder)
        client, runs = logged(location.tracking_uri())
        files = {each.path for each in client.list_artifacts(runs["5" * 32, "study"].info.run_id)}
        assert {"settings.json", "plots.html"} <= files


def wait(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_report_taken_back_by_a_failed_write_is_taken_back(home, fault):
    """The journal's writer cuts a line off again when fsync fails; the tracker may have read it."""
    with fault("fsync fails after the tracker read the line", "the line's report is taken back, its repetition counts"):
        folder, todo = home / "studies/s", events()
        place = next(i for i, (kind, f) in enumerate(todo) if kind == "report" and f["trial"] == 1)
        tracking_study.write(folder, todo[: place + 1])
        tracker = Tracker(folder).start()
        wait(lambda: not tracker.state().undelivered)
        raw = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        (folder / "journal.jsonl").write_bytes(b"".join(raw[:-1]))
        Journal(folder / "journal.jsonl").close()
        tracking_study.write(folder, todo[place:])
        assert tracker.stop(60)
        whole(folder)


def test_run_counts_in_the_database_are_those_of_the_journal(home):
    """The checks above read active runs; here all rows of the reports are counted."""
    folder = home / "studies/s"
    tracking_study.write(folder, events())
    for _ in range(3):
        deliver(folder)
        assert sync(folder)
    path = location.sqlite_path(location.tracking_uri())
    assert path is not None
    with sqlite3.connect(path) as database:
        (rows,) = database.execute("select count(*) from metrics where key = 'macro_f1'").fetchone()
        (runs,) = database.execute("select count(*) from runs").fetchone()
    assert rows == sum(kind == "report" for kind, _ in events())
    assert runs == TRIALS + 1
