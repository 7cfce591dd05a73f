"""Tuner with an in-process backend: reports, deaths, failures of the whole backend."""

import sys
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.trial import State
from lungtune.errors import DataError, MachineError, StudyError
from lungtune.search import backends, tuner
from lungtune.search.backend import Startup, WorkerUnusable
from lungtune.search.controller import MAX_LOST, TrialController

sys.path.insert(0, str(Path(__file__).parents[2] / "integration"))
import simulated
from in_process import InProcess


@pytest.fixture
def controller(tmp_path):
    space = simulated.space(12)
    return TrialController(simulated.begin(tmp_path / "s", space), space, 0)


def run(controller, workers, tick=lambda: None):
    workers.start(controller.space)
    tuner.run_trials(controller, workers, tick)
    workers.stop()


def events(controller, kind):
    return [event for event in journal.read(controller.study.journal_path) if event["event"] == kind]


def test_second_backend_runs_a_search_to_its_end(controller):
    workers = InProcess()
    run(controller, workers)
    assert controller.finished
    history = controller.study.history()
    assert len(history.trials) == 12
    assert {trial.state for trial in history.trials.values()} == {State.COMPLETE, State.PRUNED}
    assert [event["slots"] for event in events(controller, "host")] == [3]
    assert workers.log == ["start", "open", "close", "stop"]
    assert max(map(len, workers.together)) == 3


def test_tuner_and_controller_import_no_ray():
    import subprocess

    code = "import sys; import lungtune.search.tuner, lungtune.search.driver; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lost_trial_continues_from_its_checkpoint(controller):
    workers = InProcess(deaths=(4, 9))
    run(controller, workers)
    assert len(events(controller, "lost")) == 6
    assert not controller.history.of(State.FAIL)
    for trial in controller.history.trials.values():
        fidelities = [report.fidelity for report in trial.reports]
        assert fidelities == list(simulated.FIDELITY.reports[: len(fidelities)])


def test_trial_trains_alone_after_two_losses(tmp_path):
    space = simulated.space(12)
    controller = TrialController(simulated.begin(tmp_path / "s", space), space, 0)
    workers = InProcess(deaths=(2, 3))
    run(controller, workers)
    assert workers.alone == {0, 1, 2}
    assert next(together for together in workers.together if together & workers.alone) == {0}
    assert controller.finished


def test_failed_backend_restarts_and_the_search_goes_on(controller):
    workers = InProcess(broken=(3, 8))
    run(controller, workers)
    assert workers.log == ["start", "open", "close", "stop", "start", "open", "close", "stop", "start", "open", "close",
                           "stop"]  # fmt: skip
    assert controller.finished
    assert not controller.history.of(State.FAIL)


def test_backend_that_always_fails_ends_the_search(controller):
    workers = InProcess(broken=tuple(range(2, 100)))
    with pytest.raises(
        MachineError,
        match=r"The test's backend fails again and again without a new report: the cluster is gone",
    ):
        run(controller, workers)
    assert workers.log.count("open") == MAX_LOST + 1
    assert all(trial.lost <= MAX_LOST + 1 for trial in controller.history.trials.values())


def test_error_of_the_controller_is_no_failed_backend(controller):
    def tick():
        raise RuntimeError("a mistake of ours")

    workers = InProcess()
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        run(controller, workers, tick)
    assert workers.log == ["start", "open", "close"]


def test_at_most_a_quarter_of_the_trials_train_together(controller):
    workers = InProcess(slots=16)
    run(controller, workers)
    assert max(map(len, workers.together)) == 3


def test_request_to_stop_ends_the_loop_at_the_next_event(controller):
    def tick():
        if controller.history.order:
            controller.request_stop("the time budget is spent")
            controller.request_stop("a later reason")

    run(controller, InProcess(), tick)
    assert controller.stop_reason == "the time budget is spent"
    assert not controller.finished
    assert len(controller.history.order) == 2, "the poll after the request still takes a report"


class Unusable(InProcess):
    """Cannot open its session."""

    def poll(self, seconds):
        return [WorkerUnusable("device 0 cannot train", DataError("masks must be there, but are not."))]


def test_unusable_device_before_the_first_trial_raises(controller):
    with pytest.raises(DataError, match="masks must be there, but are not"):
        run(controller, Unusable())


def test_unusable_device_after_the_first_trial_stops(controller):
    controller.next()
    run(controller, Unusable())
    assert controller.stop_reason == "device 0 cannot train: masks must be there, but are not."


def test_unknown_backend_is_reported():
    with pytest.raises(StudyError, match=r"backend must be .*but got 'ray_host'\. Did you mean 'ray_hosts'"):
        backends.get("ray_host")


def test_backend_is_discovered_by_file_name(tmp_path, monkeypatch):
    (tmp_path / "in_test.py").write_text("from in_process import BACKEND\n")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    assert backends.get("in_test") is InProcess


def test_startup_stops_what_it_started():
    workers = InProcess()
    with Startup(lambda space: workers) as startup:
        assert not startup.done
        startup.begin(simulated.space(3))
        assert startup.result() is workers
    assert workers.log == ["start", "stop"]


def test_failed_startup_is_reported_on_poll():
    class Broken(InProcess):
        def start(self, space):
            raise StudyError("no Ray cluster answers")

    with Startup(lambda space: Broken()) as startup:
        startup.begin(simulated.space(3))
        with pytest.raises(StudyError, match="no Ray cluster answers"):
            startup.result()
