"""Host: callers do not block one another, every caller gets a report, errors stay with their trial."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

import simulated
from lungtune import catalog
from lungtune.core import paths
from lungtune.core.trial import Report
from lungtune.errors import WeightsError
from lungtune.search.backends.ray_hosts.host import PackHost
from lungtune.search.device_session import DeviceSession


class Session(simulated.SimulatedSession):
    """Counts steps; trial 9 raises whenever it is stepped."""

    def __init__(self, study):
        super().__init__(study)
        self.stepped = []
        self.gate = threading.Semaphore(0)

    def step(self, numbers):
        self.gate.acquire()
        self.stepped.append(frozenset(numbers))
        if 9 in numbers:
            raise ValueError("trial 9 cannot be trained")
        if 8 in numbers:
            self.runs[8]["done"] += 1.0  # as a report does whose checkpoint can't be written
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x")
            return [(8, full)]
        number = min(numbers)
        self.runs[number]["done"] += 1.0
        done = self.runs[number]["done"]
        return [(number, Report(done, round(done * 100), {"macro_f1": done}, str(self.study.folder / "c")))]


class Host(PackHost):
    """A host of two slots around that session."""

    def preload(self):
        """A simulated session needs no library."""

    def open_session(self):
        return DeviceSession(Session(self._study), {"slots": 2})


@pytest.fixture
def host(tmp_path):
    simulated.begin(tmp_path / "s", simulated.space(3)).release()
    instance = Host(1, None)
    instance.open(str(tmp_path / "s"))
    instance.ready()
    return instance


class Waiting(threading.Thread):
    """Asks for a trial's next report in the background."""

    def __init__(self, host, number, fresh=True, known=0.0):
        super().__init__(daemon=True)
        assignment = {"number": number, "params": {"quality": 1.0}, "seed": 0, "known": known}
        self.run = lambda: setattr(self, "outcome", host.train(assignment, fresh))
        self.outcome = None
        self.start()

    def result(self):
        self.join(10)
        return self.outcome


def settle(host, joined):
    """Release the work thread until these trials are in the pack."""
    end = time.monotonic() + 10
    while not joined <= set(host._session.runs):
        host._session.gate.release()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_only_trials_with_a_waiting_caller_are_trained(host):
    first = Waiting(host, 0)
    host._session.gate.release()
    assert first.result()["fidelity"] == 1.0
    second = Waiting(host, 1)
    host._session.gate.release()
    assert second.result()["fidelity"] == 1.0
    assert host._session.stepped == [{0}, {1}]
    again = Waiting(host, 0, fresh=False)
    host._session.gate.release()
    assert again.result()["fidelity"] == 2.0


def test_a_trial_that_raises_fails_alone(host):
    bad, good = Waiting(host, 9), Waiting(host, 1)
    settle(host, {9, 1})
    for _ in range(4):
        host._session.gate.release()
    assert bad.result()["failure"]["reason"] == "error"
    assert "trial 9 cannot be trained" in bad.result()["failure"]["message"]
    assert good.result()["fidelity"] >= 1.0


def test_trial_on_a_full_disk_is_no_failure_and_starts_over(host):
    waiting = Waiting(host, 8)
    host._session.gate.release()
    assert waiting.result()["failure"] == {"reason": "disk", "message": "No space left on device: /x"}
    assert 8 not in host._session.runs, "it goes on from its checkpoint"


def test_second_call_for_a_trial_replaces_the_first(host):
    ghost = Waiting(host, 0)  # its process dies while it waits
    settle(host, {0})
    host._session.gate.release()
    assert ghost.result()["number"] == 0
    ghost = Waiting(host, 0, fresh=False)
    time.sleep(0.1)
    heir = Waiting(host, 0)
    for _ in range(3):
        host._session.gate.release()
    ghost.join(10)
    assert not ghost.is_alive()
    assert heir.result()["number"] == 0


def test_slot_of_an_abandoned_trial_is_reused(host):
    for number in range(4):
        waiting = Waiting(host, number)
        host._session.gate.release()
        assert waiting.result()["number"] == number
        assert len(host._session.runs) <= 2


def test_released_trial_is_removed(host):
    waiting = Waiting(host, 0)
    host._session.gate.release()
    waiting.result()
    host.leave(0)
    end = time.monotonic() + 10
    while host._session.runs and time.monotonic() < end:
        time.sleep(0.01)
    assert not host._session.runs


def test_missing_weights_are_raised_by_every_call(tmp_path):
    class Broken(Host):
        def open_session(self):
            raise WeightsError("weights must be here, but are not")

    simulated.begin(tmp_path / "s", simulated.space(3)).release()
    broken = Broken(1, None)
    broken.open(str(tmp_path / "s"))
    with pytest.raises(WeightsError, match="must be here"):
        broken.ready()
    with pytest.raises(WeightsError, match="must be here"):
        broken.train({"number": 0}, fresh=True)


def test_host_loads_the_drivers_own_families(tmp_path, monkeypatch):
    """A cluster may have been started without ``LUNGTUNE_PATH``, or with another one."""
    monkeypatch.setenv("LUNGTUNE_PATH", str(tmp_path / "theirs"))
    own = Path(__file__).parents[2] / "contract" / "own"
    simulated.begin(tmp_path / "s", simulated.space(3)).release()
    host = Host(1, None, [str(own)])
    host.open(str(tmp_path / "s"))
    host.ready()
    assert "volume_head" in catalog.families()
    assert paths.own_folders() == [own]
