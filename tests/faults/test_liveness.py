"""Ray's processes and hosts that die, are stopped or hang: the search says so and goes on."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.checker import check
from tests.faults.drive import KINDS, Drive, below, kill

ENGINES = pytest.mark.parametrize("engine", ["hosts", pytest.param("tune", marks=pytest.mark.slow)])
LIMITS = "watch.SILENT=6,watch.SILENT_OPENING=6,watch.QUIET=8,watch.NOTICE=2"


def lost(drive: Drive) -> list[str]:
    """Return why trials were lost."""
    return [str(each["why"]) for each in drive.events("lost")]


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize(("kind", "name"), [("raylet", "raylet"), ("gcs", "gcs_server")])
def test_ray_is_started_again_when_its_process_died(search, fault, engine, kind, name):
    with fault(f"{name} killed -9 while trials train ({engine})", "said at once; Ray is started again; nothing lost"):
        drive = search(engine, TRIALS=6, SECONDS=0.2).start()
        drive.wait_for("report", 3)
        drive.kill(kind)
        says = rf"Ray.* failed \(Ray's process {name} has died\); it is started again"
        check(drive.folder, uri=drive.uri, left=drive.end(), code=0, says=says)


@ENGINES
def test_stopped_host_is_replaced(search, fault, engine):
    with fault(f"host stopped (SIGSTOP) while trials train ({engine})", "host killed and replaced; its trials retried"):
        drive = search(engine, TRIALS=6, SECONDS=0.3, LIMITS=LIMITS).start()
        drive.wait_for("report", 2)
        stopped = drive.kill("host", signal.SIGSTOP)
        left = drive.end()
        check(drive.folder, uri=drive.uri, left=left, code=0, says="does not answer")
        assert stopped not in drive.children()
        assert lost(drive)


@pytest.mark.slow
@ENGINES
def test_host_whose_step_never_returns_is_replaced(search, fault, engine):
    with fault(f"a step that never returns ({engine})", "host killed and replaced; its trials retried"):
        drive = search(engine, TRIALS=6, FAULTS="none,stuck", LIMITS=LIMITS).start()
        left = drive.end()
        check(drive.folder, uri=drive.uri, left=left, code=0, says="no step, CPU time or I/O")
        assert lost(drive)


@pytest.mark.slow
def test_killed_host_is_replaced(search, fault):
    with fault("host killed -9 while trials train", "host replaced; its trials retried"):
        drive = search(TRIALS=6, SECONDS=0.2).start()
        drive.wait_for("report", 3)
        drive.kill("host")
        check(drive.folder, uri=drive.uri, left=drive.end(), code=0)


@pytest.mark.slow
def test_host_killed_while_it_opens_is_replaced(search, fault):
    with fault("host killed -9 while it opens", "started again"):
        drive = search(TRIALS=4, OPENINGS="kill,ok").start()
        check(drive.folder, uri=drive.uri, left=drive.end(), code=0, says="device 0: starts again")


@pytest.mark.slow
def test_host_that_is_stuck_while_it_opens_is_replaced(search, fault):
    with fault("a device stuck while it opens", "host killed and started again"):
        drive = search(TRIALS=4, OPENINGS="stuck,ok", LIMITS=LIMITS).start()
        check(drive.folder, uri=drive.uri, left=drive.end(), code=0, says=r"device 0: starts again \(no step, CPU time")


@pytest.mark.slow
def test_device_that_cannot_open_costs_that_device_only(search, fault):
    with fault("one of several devices cannot open", "the others train; said; tried again later"):
        drive = search(TRIALS=6, SECONDS=0.5, OPENINGS="ok,raise,raise,raise,ok", LIMITS="devices.FIRST=1").start()
        left = drive.end()
        check(
            drive.folder, uri=drive.uri, left=left, code=0, says="cannot train: CUDA error: no device; tried again in"
        )
        assert drive.events("unusable")


@pytest.mark.slow
def test_search_without_any_device_stops_and_resumes(search, fault):
    with fault("no device can open", "the search stops with a sentence, exit code 3; resumable"):
        drive = search(TRIALS=3, OPENINGS="raise").start()
        left = drive.end()
        assert left.code == 3
        check(drive.folder, left=left, says="cannot train: CUDA error: no device", finished=False)
        drive.env["OPENINGS"] = "ok"
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)


@pytest.mark.slow
def test_search_whose_cluster_is_lost_ends_and_resumes(search, fault, monkeypatch):
    from ray.cluster_utils import Cluster

    limits = f"{LIMITS},workers.PROBE=2,cluster.ANSWER=5,cluster.JOIN=10"
    with fault("a cluster (RAY_ADDRESS) is lost", "one sentence, exit code 3; resumable elsewhere"):
        drive = search(TRIALS=6, SECONDS=0.5, LIMITS=limits)
        monkeypatch.setenv("PYTHONPATH", drive.env["PYTHONPATH"])
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            drive.env["RAY_ADDRESS"] = nodes.address
            drive.start().wait_for("report", 3)
            hosts = below(os.getpid(), KINDS["host"])  # before: the children of a dead raylet are no longer below
            for processes in list(nodes.head_node.all_processes.values()):
                processes[0].process.kill()
            for host in hosts:
                kill(host)
            left = drive.end()
        finally:
            nodes.shutdown()
        says = r"stopped \(no Ray cluster answers at RAY_ADDRESS=.*\).*Go on with:\n  lungtune search --resume"
        check(drive.folder, left=left, code=3, says=says, finished=False)
        del drive.env["RAY_ADDRESS"]
        check(drive.folder, uri=drive.uri, left=drive.start().end(), code=0)


@pytest.mark.slow
def test_device_that_kills_its_hosts_costs_that_device_only(search, fault):
    with fault("a device whose hosts die as soon as they train", "the device rests; no trial fails"):
        drive = search(TRIALS=8, SECONDS=1, OPENINGS="ok,dies", LIMITS="devices.MAX_DEATHS=2").start()
        check(drive.folder, uri=drive.uri, left=drive.end(), code=0, says="dies again and again: .*tried again in")
