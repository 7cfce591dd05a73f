"""A study on a real two-node Ray cluster: both nodes train; when one is lost, the other finishes."""

from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from lungtune.core import journal
from lungtune.core.trial import State
from lungtune.search import tuner
from lungtune.search.backends.ray_hosts import RayHosts
from lungtune.search.controller import TrialController

simulated = pytest.importorskip("simulated")
pytestmark = pytest.mark.slow
TRIALS = 5


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The study, after one of two nodes was killed while both trained."""
    space = simulated.space(TRIALS, faults=("none",), seconds=0.3)
    study = simulated.begin(tmp_path_factory.mktemp("studies") / "cluster", space)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", nodes.address)
        killed = []

        def kill_the_second():
            """Kill the second node between two reports of the loop."""
            if not killed and reports_after_both_hosts(study) >= 4:
                killed.append(second)
                nodes.remove_node(second, allow_graceful=False)

        backend = RayHosts(simulated.SimulatedHost)
        try:
            backend.start(space)
            tuner.run_trials(TrialController(study, space, 0), backend, kill_the_second)
        finally:
            backend.stop()
            nodes.shutdown()
            study.release()
    assert killed
    return study


def reports_after_both_hosts(study):
    kinds = [event["event"] for event in journal.read(study.journal_path)]
    return kinds.count("report") if kinds.count("host") == 2 else 0


def test_each_node_has_a_host(ended):
    hosts = [event for event in journal.read(ended.journal_path) if event["event"] == "host"]
    assert {event["index"] for event in hosts} == {0, 1}


def test_trial_of_a_dead_node_is_finished_by_the_other(ended):
    events = list(journal.read(ended.journal_path))
    lost = [event["trial"] for event in events if event["event"] == "lost"]
    assert lost
    history = ended.history()
    assert all(history.trials[number].state in (State.COMPLETE, State.PRUNED) for number in lost)


def test_all_trials_end_and_none_fails(ended):
    history = ended.history()
    assert len(history.trials) == TRIALS
    assert len(history.of(State.COMPLETE, State.PRUNED)) == TRIALS
