"""`core.devices` and `core.cgroup`: cores and GPUs of a process, and what limits them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from lungtune.core import cgroup, devices, environment
from lungtune.core.devices import Share
from lungtune.errors import UserError

V2 = "35 24 0:30 {root} {mount} rw,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n"
V1 = "36 24 0:31 {root} {mount} rw,nosuid shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "RAY_ADDRESS", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone
        monkeypatch.delenv(name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that pretends a machine of so many cores and GPUs."""

    def pretend(cores: int = 8, bound: int = 8, quota: float | None = None, gpus: int = 0) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
        monkeypatch.setattr(cgroup, "cores", lambda: quota)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: gpus)

    return pretend


def process(folder: Path, groups: str, mounts: str) -> Path:
    (folder / "proc").mkdir()
    (folder / "proc" / "cgroup").write_text(groups)
    (folder / "proc" / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    return folder / "proc"


def quota(folder: Path, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(content + "\n")


def test_quota_of_a_container_at_the_root_of_version_2(tmp_path):
    mount = tmp_path / "a mount"
    quota(mount, "150000 100000")
    mounts = V2.format(root="/", mount=str(mount).replace(" ", "\\040"))
    assert cgroup.cores(process(tmp_path, "0::/\n", mounts)) == 1.5


def test_smallest_quota_of_nested_groups_counts(tmp_path):
    quota(tmp_path / "fs", "max 100000")
    quota(tmp_path / "fs/user.slice", "300000 100000")
    quota(tmp_path / "fs/user.slice/job/step", "max 100000")
    groups = "1:name=systemd:/x\n0::/user.slice/job/step\n"
    assert cgroup.cores(process(tmp_path, groups, V2.format(root="/", mount=tmp_path / "fs"))) == 3


def test_quota_of_version_1_in_a_container_without_namespace(tmp_path):
    mount = tmp_path / "cpu,cpuacct"
    (mount / "inner").mkdir(parents=True)
    for folder, micros in ((mount, 200000), (mount / "inner", -1)):
        (folder / "cpu.cfs_quota_us").write_text(f"{micros}\n")
        (folder / "cpu.cfs_period_us").write_text("50000\n")
    groups = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1/inner\n0::/docker/1\n"
    assert cgroup.cores(process(tmp_path, groups, V1.format(root="/docker/1", mount=mount))) == 4


@pytest.mark.parametrize("groups", ["0::/\n", "0::/../elsewhere\n", "7:cpu:/x\n", ""])
def test_no_quota_is_no_limit(tmp_path, groups):
    quota(tmp_path / "fs", "max 100000")
    assert cgroup.cores(process(tmp_path, groups, V2.format(root="/", mount=tmp_path / "fs"))) is None


def test_no_proc_is_no_limit(tmp_path):
    assert cgroup.cores(tmp_path) is None


@pytest.mark.parametrize(
    ("bound", "limit", "slurm", "share"),
    [
        (8, None, {}, Share(8, 8)),
        (2, 4.0, {}, Share(2, 8, "CPU affinity")),
        (8, 2.0, {}, Share(2, 8, "CPU limit of the container or cgroup")),
        (8, 0.3, {}, Share(1, 8, "CPU limit of the container or cgroup")),
        (8, 64.0, {}, Share(8, 8)),
        (8, None, {"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, Share(3, 8, "SLURM_CPUS_PER_TASK")),
        (8, None, {"SLURM_CPUS_ON_NODE": "6"}, Share(6, 8, "SLURM_CPUS_ON_NODE")),
        (4, None, {"SLURM_CPUS_ON_NODE": "16"}, Share(4, 8, "CPU affinity")),
        (8, None, {"SLURM_CPUS_PER_TASK": "many"}, Share(8, 8)),
    ],
)
def test_cores_are_the_smallest_limit(machine, monkeypatch, bound, limit, slurm, share):
    machine(8, bound, limit)
    for name, value in {"SLURM_JOB_ID": "7", **slurm}.items():
        monkeypatch.setenv(name, value)
    assert devices.cores() == share
    assert environment.cores() == share.count


def test_slurm_variables_outside_a_job_are_ignored(machine, monkeypatch):
    machine(8)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert devices.cores() == Share(8, 8)


@pytest.mark.parametrize(
    ("env", "share"),
    [
        ({}, Share(4, 4)),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, Share(2, 4, "CUDA_VISIBLE_DEVICES")),
        ({"CUDA_VISIBLE_DEVICES": ""}, Share(0, 4, "CUDA_VISIBLE_DEVICES")),
        ({"CUDA_VISIBLE_DEVICES": "2,-1,0"}, Share(1, 4, "CUDA_VISIBLE_DEVICES")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, Share(1, 4, "CUDA_VISIBLE_DEVICES")),
        ({"CUDA_VISIBLE_DEVICES": ",".join(f"MIG-{number}" for number in range(7))}, Share(7, 7)),
        ({"SLURM_JOB_GPUS": "2-3"}, Share(2, 4, "SLURM_JOB_GPUS")),
        ({"SLURM_JOB_GPUS": "4,5,6,7"}, Share(4, 4)),  # four of eight, the others hidden by SLURM
        ({"SLURM_JOB_GPUS": "2,3", "SLURM_STEP_GPUS": "3"}, Share(1, 4, "SLURM_JOB_GPUS")),
    ],
)
def test_gpus_are_the_visible_ones(machine, monkeypatch, env, share):
    machine(gpus=4)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert devices.gpus() == share


def test_no_driver_is_no_gpu(monkeypatch):
    def missing() -> None:
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert devices.gpus() == Share(0, 0)


def test_chosen_gpus_are_visible_in_the_order_of_nvidia_smi(machine):
    machine(gpus=4)
    devices.choose_gpus("0, 2")
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"]) == ("0,2", "PCI_BUS_ID")
    assert devices.gpus().count == 2


def test_chosen_gpus_of_visible_ones_keep_the_users_order(machine, monkeypatch):
    machine(gpus=4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,3")
    devices.choose_gpus("3")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert "CUDA_DEVICE_ORDER" not in os.environ


def test_slurms_gpus_are_chosen_where_none_are_named(machine, monkeypatch):
    machine(gpus=4)
    monkeypatch.setenv("SLURM_JOB_GPUS", "1,3")
    devices.choose_gpus()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"


def test_nothing_is_set_where_all_gpus_are_used(machine):
    machine(gpus=4)
    devices.choose_gpus()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("wanted", "gpus", "env", "problem"),
    [
        ("4", 4, {}, r"there is no GPU 4; this machine has 0, 1, 2, 3\."),
        ("0", 0, {}, "NVIDIA's driver knows none here; leave it out"),
        ("0,0", 4, {}, "each once, such as 0,2, but got '0,0'; this machine has 0, 1, 2, 3"),
        ("0,,1", 4, {}, "but got '0,,1'"),
        ("two", 4, {}, "there is no GPU two"),
        ("0", 4, {"CUDA_VISIBLE_DEVICES": "1,2"}, r"no GPU 0; this machine has 1, 2\. CUDA_VISIBLE_DEVICES=1,2 hides"),
        ("0", 4, {"CUDA_VISIBLE_DEVICES": ""}, "no GPU 0; none is visible. CUDA_VISIBLE_DEVICES= hides the others"),
        ("0", 4, {"RAY_ADDRESS": "head:6379"}, "RAY_ADDRESS=head:6379 is a cluster; limit .* with --hosts N"),
    ],
)
def test_gpus_that_cannot_be_chosen_are_refused(machine, monkeypatch, wanted, gpus, env, problem):
    machine(gpus=gpus)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.raises(UserError, match=problem):
        devices.choose_gpus(wanted)
    assert dict(os.environ) == before
