"""A study on a real Ray cluster of two nodes: both train for it, and when one goes the other finishes the work."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from lungtune.core import journal
from lungtune.core.study import Study
from lungtune.core.trial import State

HERE = Path(__file__).parent
TRIALS = 5


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The study, after one of two nodes was killed while both trained."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    home = tmp_path_factory.mktemp("home")
    folder = home / "studies" / "cluster"
    env = os.environ | {"RAY_ADDRESS": cluster.address, "LUNGTUNE_HOME": str(home), "PYTHONPATH": str(HERE)}
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{home}/mlflow.db"
    command = [sys.executable, str(HERE / "drive.py"), str(folder), str(TRIALS), "0.3"]
    with open(home / "log", "w") as log:
        driver = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: reports_after_both_hosts(folder) >= 4, driver)
        cluster.remove_node(second, allow_graceful=False)
        assert driver.wait(timeout=150) == 0, (home / "log").read_text()[-3000:]
    finally:
        driver.kill()
        driver.wait()
        cluster.shutdown()
    return Study(folder)


def wait_until(reached, driver, seconds=120):
    end = time.monotonic() + seconds
    while not reached():
        assert driver.poll() is None, "the driver ended too early"
        assert time.monotonic() < end
        time.sleep(0.2)


def reports_after_both_hosts(folder):
    if not (folder / "journal.jsonl").exists():
        return 0
    kinds = [event["event"] for event in journal.read(folder / "journal.jsonl")]
    return kinds.count("report") if kinds.count("host") == 2 else 0


def test_each_node_has_a_host(ended):
    hosts = [event for event in journal.read(ended.journal_path) if event["event"] == "host"]
    assert {event["index"] for event in hosts} == {0, 1}


def test_when_a_node_dies_its_trial_is_lost_and_finished_by_the_other(ended):
    events = list(journal.read(ended.journal_path))
    lost = [event["trial"] for event in events if event["event"] == "lost"]
    assert lost
    history = ended.history()
    assert all(history.trials[number].state in (State.COMPLETE, State.PRUNED) for number in lost)


def test_all_trials_end_and_none_fails(ended):
    history = ended.history()
    assert len(history.trials) == TRIALS
    assert len(history.of(State.COMPLETE, State.PRUNED)) == TRIALS
