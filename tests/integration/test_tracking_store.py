"""The local MLflow store and a study's runs in it, on real SQLite and files."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lungtune.core.journal import Journal
from lungtune.errors import StudyError
from lungtune.tracking import Tracker, location, store, sync
from tests.integration import tracking_study

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"])


@pytest.fixture
def uri(tmp_path, furnish):
    return furnish(tmp_path / "state/mlflow.db")


@pytest.fixture
def study(tmp_path):
    return tmp_path / "studies/clip_lora-1"


def runs(uri):
    """All active runs by their key, each key once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    logged = client.search_runs([e.experiment_id for e in client.search_experiments() if e.name != "Default"])
    keys = Counter(run.data.tags.get("lungtune.trial", "study") for run in logged)
    assert set(keys.values()) <= {1}, keys
    return client, {run.data.tags.get("lungtune.trial", "study"): run for run in logged}


def check_whole(uri, trials=16, seed=0):
    """MLflow holds exactly the journal: one run per trial, each report once."""
    client, logged = runs(uri)
    assert set(logged) == {"study", *map(str, range(trials))}
    reports = Counter(str(f["trial"]) for kind, f in tracking_study.script(trials, seed) if kind == "report")
    for key, run in logged.items():
        if key == "study":
            continue
        history = client.get_metric_history(run.info.run_id, "macro_f1")
        steps = [metric.step for metric in history]
        assert len(set(steps)) == len(steps) == reports[key], key
        assert run.data.tags["mlflow.parentRunId"] == logged["study"].info.run_id
    return client, logged


def dump(uri):
    """Everything in the store that must not change when events are sent again."""
    with sqlite3.connect(location.sqlite_path(uri)) as db:
        queries = (
            "select run_uuid, key, value, timestamp, step from metrics",
            "select run_uuid, key, value from params",
            "select run_uuid, key, value from tags",
            "select run_uuid, status, end_time from runs",
        )
        return [sorted(db.execute(query).fetchall(), key=repr) for query in queries]


def test_whole_study_is_in_mlflow(uri, study):
    tracker = Tracker(study, uri).start()  # before the journal exists
    tracking_study.write_files(study)
    tracking_study.write(study, tracking_study.script())
    delivery = tracker.stop(60)
    assert (bool(delivery), delivery.undelivered, delivery.refused) == (True, 0, 0), delivery

    client, result = check_whole(uri)
    status = {
        key: (run.info.status, run.data.tags["state"], run.data.tags.get("reason")) for key, run in result.items()
    }
    assert status["study"] == ("FINISHED", "COMPLETE", "finished")
    assert status["0"] == ("FINISHED", "COMPLETE", None)
    assert status["2"] == ("KILLED", "PRUNED", "asha")
    assert status["5"] == ("FAILED", "FAIL", "nan")
    assert status["7"] == ("FINISHED", "COMPLETE", "duplicate")
    assert result["7"].data.tags["duplicate_of"] == "0"
    assert result["7"].data.metrics["best_macro_f1"] == result["0"].data.metrics["best_macro_f1"]
    assert result["3"].data.tags["attempts"] == "2"

    first = result["0"]
    assert first.info.run_name == "trial 000 · clip_lora"
    assert (first.data.params["lr"], first.data.params["family"]) == ("0.0005", "clip_lora")
    assert first.inputs.dataset_inputs[0].dataset.digest == "0123456789abcdef0123456789abcdef0123"
    reported = tracking_study.metrics(0.5, tracking_study.np.random.default_rng(0))
    assert set(first.data.metrics) - {f"{p}{k}" for k in reported for p in ("", "best_")} == {"passes"}
    parent = result["study"]
    assert parent.data.metrics["baseline_constant_macro_f1"] == 0.218
    assert parent.data.metrics["best_macro_f1"] == max(r.data.metrics.get("best_macro_f1", 0) for r in result.values())
    assert parent.data.params["axes.lr"] == "0.0005 .. 0.02 log"
    assert "| constant class | 0.2180" in parent.data.tags["mlflow.note.content"]

    files = {f.path for f in client.list_artifacts(parent.info.run_id)}
    assert files == {"space.yaml", "settings.json", "split.json", "summary.json", "plots.html"}
    page = Path(client.download_artifacts(parent.info.run_id, "plots.html")).read_text()
    for title in ("History", "Learning curves", "Importance", "Parallel coordinates", "Slices"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("plotly.js v") == 1
    best = parent.data.tags["best_trial"]
    figures = {f.path for f in client.list_artifacts(result[best].info.run_id, "figures")}
    assert figures == {"figures/confusion_matrix.png", "figures/roc.png"}
    assert "became nan" in Path(client.download_artifacts(result["5"].info.run_id, "traceback.txt")).read_text()
    assert {p.name for p in (study.parents[1] / "state").iterdir()} >= {"artifacts"}


def test_resending_changes_nothing(uri, study):
    tracking_study.write(study, tracking_study.script())
    assert Tracker(study, uri).start().stop(60)
    before = dump(uri)
    assert sync(study, uri)
    (study / "tracking.json").write_text('{"torn')
    assert Tracker(study, uri).start().stop(60)
    (study / "tracking.json").unlink()
    assert Tracker(study, uri).start().stop(60)
    assert dump(uri) == before
    check_whole(uri)


def test_restarts_go_on_with_the_same_runs(uri, study):
    events = tracking_study.script()
    for size in (1, 9, 30, 31, 200):
        tracking_study.write(study, list(itertools.islice(events, size)))
        assert Tracker(study, uri).start().stop(60)
    check_whole(uri)


def test_a_study_that_waits_is_shown_as_waiting(uri, study):
    events = [e for e in tracking_study.script() if e[0] not in ("summary", "stop")]
    until = next(i for i, (kind, f) in enumerate(events) if kind == "report" and f["trial"] == 1) + 1
    tracking_study.write(study, [*events[:until], ("stop", {"pid": 1, "host": "h", "why": "interrupted"})])
    assert Tracker(study, uri).start().stop(60)
    _, logged = runs(uri)
    assert (logged["1"].info.status, logged["1"].data.tags["state"]) == ("SCHEDULED", "PAUSED")
    assert (logged["study"].info.status, logged["study"].data.tags["state"]) == ("SCHEDULED", "PAUSED")
    tracking_study.write(study, [("open", {"pid": 2, "host": "h", "why": "resume"})])
    assert Tracker(study, uri).start().stop(60)
    _, logged = runs(uri)
    assert {r.info.status for k, r in logged.items() if k in ("1", "study")} == {"RUNNING"}


def test_manual_deletions_are_restored_and_edits_kept(uri, study):
    events = list(tracking_study.script())
    tracking_study.write(study, events[:60])
    assert Tracker(study, uri).start().stop(60)
    client, logged = runs(uri)
    client.delete_run(logged["2"].info.run_id)
    client.delete_run(logged["study"].info.run_id)
    client.log_param(logged["3"].info.run_id, "extra", "mine")
    tracking_study.write(study, events[60:])
    assert Tracker(study, uri).start().stop(60)
    check_whole(uri)
    client.delete_experiment(logged["3"].info.experiment_id)
    assert Tracker(study, uri).start().stop(60)
    _, logged = check_whole(uri)
    assert client.get_experiment(logged["3"].info.experiment_id).name == "clip_lora on chest_xray (2)"


def test_of_two_runs_for_one_trial_one_stays(uri, study):
    tracking_study.write(study, tracking_study.script())
    assert Tracker(study, uri).start().stop(60)
    client, logged = runs(uri)
    twin = logged["4"]
    client.create_run(twin.info.experiment_id, tags=twin.data.tags, run_name=twin.info.run_name)  # a late request
    with pytest.raises(AssertionError, match="'4': 2"):
        runs(uri)
    assert Tracker(study, uri).start().stop(60)
    check_whole(uri)


def test_changed_parameter_is_skipped(uri, study):
    tracking_study.write(study, tracking_study.script(4))
    assert Tracker(study, uri).start().stop(60)
    journal = study / "journal.jsonl"
    journal.write_text(re.sub(r'("params":{[^}]*"lr":)[^,]*', r"\g<1>9.0", journal.read_text()))
    delivery = sync(study, uri)
    assert (bool(delivery), delivery.refused) == (True, 4)
    assert runs(uri)[1]["0"].data.params["lr"] == "0.0005"


def test_runs_of_a_rewritten_journal_are_made_again(uri, study):
    tracking_study.write(study, tracking_study.script(6))
    assert Tracker(study, uri).start().stop(60)
    (study / "journal.jsonl").unlink()
    events = list(tracking_study.script(4))
    changed = [(kind, {**f, "params": {**f["params"], "lr": 9.0}} if kind == "trial" else f) for kind, f in events]
    tracking_study.write(study, changed)
    delivery = sync(study, uri)
    assert (bool(delivery), delivery.refused) == (True, 0)
    _, logged = check_whole(uri, 4)
    assert logged["0"].data.params["lr"] == "9"


def test_a_second_tracker_waits_for_the_first(uri, study):
    tracking_study.write(study, list(tracking_study.script())[:20])
    first = Tracker(study, uri).start()
    while first.state().undelivered:
        time.sleep(0.05)
    second = Tracker(study, uri).start().stop(1.0)
    assert not second
    assert re.search(r"process \d+ on .* is delivering this study", second.sentence)
    assert first.stop(60)


def test_unstorable_files_do_not_block_metrics(uri, study):
    tracking_study.write(study, tracking_study.script())
    (study.parents[1] / "state/artifacts").write_text("a file where the folder should be")
    delivery = Tracker(study, uri).start().stop(60)
    assert delivery.undelivered == 0
    assert delivery.problem
    check_whole(uri)
    (study.parents[1] / "state/artifacts").unlink()
    assert Tracker(study, uri).start().stop(60)
    client, logged = runs(uri)
    assert "plots.html" in {f.path for f in client.list_artifacts(logged["study"].info.run_id)}


def _write_and_track(study: Path, uri: str) -> None:
    done = len((study / "journal.jsonl").read_bytes().split(b"\n")) - 1 if (study / "journal.jsonl").exists() else 0
    study.mkdir(parents=True, exist_ok=True)
    tracker = Tracker(study, uri).start()
    tracking_study.write(study, itertools.islice(tracking_study.script(), done, None), pause=0.012)
    tracker.stop(60)


def test_kill_9_loses_and_duplicates_nothing(uri, study):
    dice = random.Random(3)
    for _ in range(6):
        process = PROCESSES.Process(target=_write_and_track, args=(study, uri))
        process.start()
        process.join(0.2 + dice.random())
        process.kill()
        process.join()
    process = PROCESSES.Process(target=_write_and_track, args=(study, uri))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    Journal(study / "journal.jsonl").close()
    check_whole(uri)
    before = dump(uri)
    assert sync(study, uri)
    after = dump(uri)
    assert before[:2] == after[:2]


def _prepare(uri: str) -> None:
    store.settle_environment()
    store.prepare(uri)


def test_eight_processes_make_one_schema(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/state/mlflow.db"
    processes = [PROCESSES.Process(target=_prepare, args=(uri,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    assert store.client(uri).create_experiment("works")
    assert {p.name for p in (tmp_path / "new/state").iterdir()} - {"artifacts"} == {"mlflow.db", "mlflow.db.lock"}


def test_truncated_schema_is_recreated(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = PROCESSES.Process(target=_prepare, args=(uri,))
    process.start()
    while not (tmp_path / ".mlflow.db.new").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.join()
    assert not (tmp_path / "mlflow.db").exists()
    _prepare(uri)
    assert store.client(uri).create_experiment("works")


@pytest.mark.parametrize(
    ("revision", "words"),
    [("ffffffffffff", "newer MLflow"), ("451aebb31d03", "mlflow db upgrade"), (None, "no complete MLflow store")],
)
def test_store_of_another_version_is_refused(tmp_path, furnish, revision, words):
    uri, study = furnish(tmp_path / "mlflow.db"), tmp_path / "study"
    with sqlite3.connect(tmp_path / "mlflow.db") as db:
        change = f"update alembic_version set version_num='{revision}'" if revision else "drop table alembic_version"
        db.execute(change)
    with pytest.raises(StudyError, match=words):
        store.prepare(uri)
    tracking_study.write(study, tracking_study.script(2))
    delivery = Tracker(study, uri).start().stop(20)
    assert words in delivery.sentence
    assert delivery.undelivered == len(list(tracking_study.script(2)))


def test_tracking_prints_nothing_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys, pathlib\n"
        "import lungtune.tracking; assert not {'mlflow', 'torch', 'ray', 'pandas', 'plotly'} & set(sys.modules)\n"
        "from tests.integration import tracking_study as study; study.write(pathlib.Path('s'), study.script(5))\n"
        "assert lungtune.tracking.Tracker(pathlib.Path('s')).start().stop(60)\n"
        "assert 'mlruns' not in [p.name for p in pathlib.Path().iterdir()]\n"
    )
    environment = {**os.environ, "LUNGTUNE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "mlflow/state/mlflow.db").exists()


def test_interrupted_delivery_leaves_no_lock(uri, study):
    process = PROCESSES.Process(target=_write_and_track, args=(study, uri))
    process.start()
    while not (study / "tracking.lock").exists():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Tracker(study, uri).start().stop(30)
