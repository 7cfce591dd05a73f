"""The watch over a host and what is known of a device, on a clock of the test's own; processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lungtune.search.backends.ray_hosts import devices, processes, watch
from lungtune.search.backends.ray_hosts.devices import Device
from lungtune.search.backends.ray_hosts.watch import Pulse, Watch


class Host:
    """A host whose watch is looked at every second."""

    def __init__(self, *, local: bool = True, opened: bool = True) -> None:
        self.now = 100.0
        self.watch = Watch(lambda: self.now)
        self.watch.local, self.watch.opened = local, opened
        self.beats, self.cpu, self.moved = 0, 5.0, 0
        self.at_work = False

    def live(self, seconds: float, *, answer: bool = True, beat: float = 0, cpu: float = 0.0, io: float = 0.0) -> str:
        """Let time pass; return the last verdict.

        Args:
            seconds: how long.
            answer: it answers each second.
            beat: seconds of a step; 0: none ends.
            cpu: share of a core in use.
            io: bytes a second.
        """
        verdict = ""
        for second in range(1, int(seconds) + 1):
            self.now += 1.0
            self.cpu += cpu
            self.moved += int(io)
            self.beats += bool(beat and second % beat == 0)
            self.watch.look()
            if answer:
                self.watch.answered(Pulse("", self.at_work, self.beats, self.cpu, self.moved))
            elif self.watch.local:
                self.watch.measured(self.cpu, self.moved)
            verdict = self.watch.verdict()
            if verdict:
                break
        return verdict

    def work(self) -> Host:
        """Give it work, and let it train for a while."""
        self.at_work = True
        assert self.live(30, beat=1, cpu=1.0) == ""
        return self


def test_host_that_trains_lives() -> None:
    assert Host().work().live(10_000, beat=1, cpu=1.0) == ""


def test_host_without_work_lives() -> None:
    host = Host()
    assert host.live(10_000, cpu=0.0075) == ""
    assert host.watch.notice() == ""


def test_stopped_host_is_found_within_two_minutes() -> None:
    host = Host().work()
    began = host.now
    assert host.live(600, answer=False) == "its process has not answered for 61 s"
    assert host.now - began < 120


def test_stopped_host_without_work_is_found() -> None:
    host = Host()
    host.live(1000)
    assert host.live(600, answer=False) == "its process has not answered for 61 s"


def test_stuck_step_is_found_although_the_host_answers() -> None:
    host = Host().work()
    assert host.live(600, cpu=0.0075) == "no step, CPU time or I/O for 91 s"  # Ray's own threads


def test_slow_step_that_computes_or_reads_is_no_stuck_one() -> None:
    assert Host().work().live(1500, cpu=1.0) == ""
    assert Host().work().live(1500, io=10_000) == ""


def test_process_among_sixty_busy_ones_lives() -> None:
    assert Host().work().live(1500, cpu=0.032) == ""


def test_step_that_spins_for_ever_is_found() -> None:
    assert Host().work().live(3000, cpu=1.0) == "no step for 1801 s"


def test_host_with_long_steps_has_longer_limits() -> None:
    host = Host()
    host.at_work = True
    assert host.live(900, beat=300, cpu=1.0) == ""
    assert host.live(850) == ""
    assert host.live(100) == "no step, CPU time or I/O for 901 s"


def test_local_process_that_imports_without_answering_lives() -> None:
    host = Host(opened=False)
    host.at_work = True
    assert host.live(5) == ""
    assert host.live(600, answer=False, cpu=0.5) == ""


def test_opening_elsewhere_has_three_minutes_without_an_answer() -> None:
    host = Host(local=False, opened=False)
    host.live(5)
    assert host.live(170, answer=False) == ""
    assert host.live(20, answer=False) == "its process has not answered for 181 s"


def test_time_in_which_the_driver_was_stopped_does_not_count() -> None:
    host = Host().work()
    host.now += 3600.0
    assert host.live(1, answer=False) == ""
    assert host.watch.silent < 10


def test_work_after_a_long_wait_begins_anew() -> None:
    host = Host()
    host.live(1000)
    host.at_work = True
    assert host.live(80) == ""


def test_user_is_told_before_a_host_is_replaced() -> None:
    host = Host().work()
    host.live(10)
    assert host.watch.notice() == ""
    host.live(10)
    assert host.watch.notice() == "no step, CPU time or I/O: 20 s"
    host = Host()
    host.live(5)
    host.live(20, answer=False)
    assert host.watch.notice() == "does not answer: 20 s"


def test_process_that_was_never_seen_is_not_judged() -> None:
    host = Host()
    assert host.live(1000, answer=False) == ""
    assert host.watch.notice() == "waits for Ray to start its process: 1000 s"


def test_device_rests_after_four_deaths_before_it_is_ready() -> None:
    device = Device(0)
    assert [device.not_opened() for _ in range(4)] == [False, False, False, True]


def test_device_whose_hosts_die_with_different_trials_is_to_blame() -> None:
    device = Device(0)
    assert [device.died(board) for board in ({1, 2, 3}, {1, 2, 3}, {1}, {2})] == [False, False, False, True]


def test_trial_that_is_on_every_dead_host_is_to_blame() -> None:
    device = Device(0)
    assert not any(device.died(board) for board in ({1, 2}, {1, 2}, {1}, {1}))


def test_report_clears_a_device() -> None:
    device = Device(0)
    device.died({1})
    device.died({2})
    assert device.strikes == 2
    device.reported()
    assert device.strikes == 0
    assert not device.died({3})


def test_device_is_tried_again_less_and_less_often() -> None:
    now = [0.0]
    device = Device(0, lambda: now[0])
    assert [device.rest() for _ in range(7)] == [60.0, 120.0, 240.0, 480.0, 960.0, 1800.0, 1800.0]
    assert not device.due
    now[0] = 1800.0
    assert device.due
    assert device.not_opened(), "one death more is enough"
    device.reported()
    assert device.rest() == devices.FIRST


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def eventually(true: Callable[[], bool]) -> bool:
    """Wait until something holds, at most 10 s; return True if it does."""
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_stopped_process_is_killed(sleeper: subprocess.Popen[bytes]) -> None:
    named = (processes.identity()[0], sleeper.pid, processes._started(sleeper.pid))
    assert not processes.stopped(sleeper.pid)
    os.kill(sleeper.pid, signal.SIGSTOP)
    assert eventually(lambda: processes.stopped(sleeper.pid))
    assert processes.kill(named)
    assert sleeper.wait(10) == -signal.SIGKILL
    assert not processes.kill(named)


def test_process_of_another_machine_or_start_is_not_killed(sleeper: subprocess.Popen[bytes]) -> None:
    machine, _, _ = processes.identity()
    assert not processes.kill(("another", sleeper.pid, processes._started(sleeper.pid)))
    assert not processes.kill((machine, sleeper.pid, "1"))
    assert sleeper.poll() is None


def test_cpu_time_and_io_of_a_process_grow() -> None:
    before = processes.used()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        os.urandom(1 << 12)
    with open("/dev/zero", "rb") as zeros:
        zeros.read(watch.MOVED)
    after = processes.used()
    assert after[0] - before[0] >= 0.1
    assert after[1] - before[1] >= watch.MOVED
    assert processes.used(os.getpid())[0] == pytest.approx(after[0], abs=0.1)
