"""``kill -9`` of the driver at random moments, then resume: no trial lost, repeated or decided differently."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.search.controller import TrialController

simulated = pytest.importorskip("simulated")
TRIALS = 12


@pytest.mark.parametrize(
    ("engine", "kills", "lines"),
    [
        ("hosts", 1, (10, 40)),
        pytest.param("tune", 1, (10, 40), marks=pytest.mark.slow),
        pytest.param("hosts", 4, (1, 15), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param("tune", 4, (1, 15), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, furnish, engine, kills, lines):
    """Once, in the midst of it; or again and again, before the first trial too."""
    folder = tmp_path / "killed"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "LUNGTUNE_HOME": str(tmp_path)}
    env["MLFLOW_TRACKING_URI"] = furnish(tmp_path / "mlflow.db")
    command = [sys.executable, str(Path(__file__).parent / "drive.py"), str(folder), str(TRIALS), "0.25", engine]
    chance = random.Random(kills)
    for _ in range(kills):
        with open(tmp_path / "log", "ab") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        wait_for_growth(folder, process, chance.randint(*lines))
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    study = Study(folder)
    check_whole(study)
    check_decisions(study, tmp_path / "again")
    check_runs(study, env["MLFLOW_TRACKING_URI"])


def size(folder):
    path = folder / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_growth(folder, process, lines, seconds=120):
    """Wait until the journal has so many more lines, or the process has ended."""
    end, wanted = time.monotonic() + seconds, size(folder) + lines
    while size(folder) < wanted and process.poll() is None:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def check_whole(study):
    """Every trial has ended, each fidelity was reported once, and was trained once but for the segment in flight."""
    history = study.history()
    assert sorted(history.trials) == list(range(TRIALS))
    assert not history.of(State.RUNNING, State.PAUSED, State.FAIL)
    for trial in history.trials.values():
        fidelities = [report.fidelity for report in trial.reports]
        assert fidelities == list(simulated.FIDELITY.reports[: len(fidelities)])
        starts = [float(word) for word in (study.checkpoints(trial.number) / "starts").read_text().split()]
        assert starts == sorted(starts), "a trial goes on where it was, never before"


def check_decisions(study, folder):
    """A controller that is never cut off, shown the same reports in the same order, decides the same."""
    kinds = ("trial", "start", "report", "pause", "end")
    events = [e for e in journal.read(study.journal_path) if e["event"] in kinds]
    space = simulated.space(TRIALS, faults=("none",), seconds=0.25)
    straight = TrialController(simulated.begin(folder, space), space, 0)
    for event in events:
        if event["event"] == "trial":
            assigned = straight.next()
            assert (assigned.number, assigned.params) == (event["trial"], event["params"])
        elif event["event"] == "start":
            if event["trial"] not in straight.running:  # else it went on after a kill
                assigned = straight.next()
                assert (assigned.number, assigned.known) == (event["trial"], event["fidelity"])
        elif event["event"] == "report":
            straight.report(event["trial"], event)
        elif event["event"] == "pause":
            assert straight.history.trials[event["trial"]].state is State.PAUSED
        else:
            if not straight.running and straight.history.trials[event["trial"]].state is State.PAUSED:
                assert straight.next() is None, "what is paused ends with the search"
            assert straight.history.trials[event["trial"]].state.value == event["state"]
            assert straight.history.trials[event["trial"]].reason == event["reason"]


def check_runs(study, uri):
    """MLflow holds one parent and exactly one run per trial, none left running."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    numbers = sorted(int(r.data.tags["lungtune.trial"]) for r in runs if "lungtune.trial" in r.data.tags)
    assert numbers == list(range(TRIALS))
    assert len(runs) == TRIALS + 1
    assert {r.info.status for r in runs} <= {"FINISHED", "KILLED"}
