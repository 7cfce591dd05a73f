"""Limits on the cores and GPUs of a search: affinity, cgroups, SLURM, ``--hosts``, ``--gpus``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.checker import check

NVML = """
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 4
"""
"""A stand-in for NVIDIA's library on a machine of four GPUs."""

several_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def quota_of_one_core() -> Iterator[Path]:
    """A cgroup inside one that may use one core."""
    outer = Path("/sys/fs/cgroup/cpu") / f"lungtune-{os.getpid()}"
    if not os.access(outer.parent, os.W_OK) or not (outer.parent / "cpu.cfs_quota_us").exists():
        pytest.skip("needs a cgroup (version 1) that may be written")
    inner = outer / "job"
    try:
        inner.mkdir(parents=True)
        (outer / "cpu.cfs_quota_us").write_text("100000")
        (outer / "cpu.cfs_period_us").write_text("100000")
        yield inner
    finally:
        for folder in (inner, outer):
            folder.rmdir()


@several_cores
@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("affinity", "1 of {n} cores (CPU affinity)"),
        pytest.param("slurm", "1 of {n} cores (SLURM_CPUS_PER_TASK)", marks=pytest.mark.slow),
    ],
)
def test_limited_cores_have_one_host_each(search, fault, limit, says):
    wrap = ("taskset", "-c", str(min(os.sched_getaffinity(0)))) if limit == "affinity" else ()
    env = {} if limit == "affinity" else {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1"}
    with fault(f"only one core may be used ({limit})", "one worker process; the opening says why"):
        drive = search(TRIALS=3, SECONDS=0, **env)
        left = drive.start(wrap=wrap).end()
        check(drive.folder, left=left, code=0)
        assert f"devices: {says.format(n=os.cpu_count())}, a worker process each" in left.out
        assert len(drive.events("host")) == 1


@pytest.mark.slow
@several_cores
def test_nested_cgroup_with_a_quota_of_one_core_has_one_host(search, fault, quota_of_one_core):
    join = ("sh", "-c", f'echo $$ > {quota_of_one_core}/cgroup.procs; exec "$@"', "sh")
    with fault("only one core may be used (quota of a cgroup above)", "one worker process; the opening says why"):
        drive = search(TRIALS=3, SECONDS=0)
        left = drive.start(wrap=join).end()
        check(drive.folder, left=left, code=0)
        assert f"1 of {os.cpu_count()} cores (CPU limit of the container or cgroup)" in left.out
        assert len(drive.events("host")) == 1


@several_cores
@pytest.mark.parametrize("engine", ["hosts", pytest.param("tune", marks=pytest.mark.slow)])
def test_hosts_limits_worker_processes(search, fault, engine):
    with fault(f"--hosts 1 on a machine of several cores ({engine})", "one worker process, with all cores"):
        drive = search(engine, TRIALS=3, SECONDS=0)
        left = drive.start("--hosts", "1").end()
        check(drive.folder, left=left, code=0)
        assert "cores, 1 worker process (--hosts 1)" in left.out
        assert {event["index"] for event in drive.events("host")} == {0}


@pytest.mark.slow
def test_chosen_gpus_have_one_host_each(search, fault, tmp_path):
    (tmp_path / "pynvml.py").write_text(NVML)
    with fault("--gpus 0,2 on a machine of four GPUs", "two worker processes, each with one of these GPUs"):
        drive = search(TRIALS=6, SECONDS=0.2)
        drive.env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{drive.env['PYTHONPATH']}"
        left = drive.start("--gpus", "0,2").end()
        check(drive.folder, left=left, code=0)
        assert "devices: 2 of 4 GPUs (--gpus 0,2), a worker process each" in left.out
        assert {event["device"] for event in drive.events("host")} == {"0", "2"}


def test_absent_gpu_is_refused_before_anything_starts(search, fault, tmp_path):
    (tmp_path / "pynvml.py").write_text(NVML)
    with fault("--gpus names a GPU that is absent", "one sentence, exit code 2; nothing was started or written"):
        drive = search()
        drive.env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{drive.env['PYTHONPATH']}"
        left = drive.start("--gpus", "0,7").end()
        assert (left.code, left.out) == (2, "")
        assert left.err == "error: --gpus: there is no GPU 7; this machine has 0, 1, 2, 3.\n"
        assert not drive.folder.exists()
