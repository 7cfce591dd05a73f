"""Cores and GPUs that this process may use, and what limits them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from lungtune.core import cgroup
from lungtune.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable with the GPUs that CUDA, and so torch and Ray, may use: numbers or UUIDs, by commas."""

_ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True)
class Share:
    """Part of the machine's devices of one kind.

    Attributes:
        count: number of devices that may be used.
        total: number that the machine has.
        why: what limits it, such as ``CPU affinity``; empty where nothing does.
    """

    count: int
    total: int
    why: str = ""

    def __str__(self) -> str:
        """Return ``2`` or ``1 of 2``."""
        return str(self.count) if self.count == self.total else f"{self.count} of {self.total}"


def cores() -> Share:
    """Return the cores of this process: at least 1, at most each of CPU affinity, cgroup quota and SLURM's share."""
    total = os.cpu_count() or 1
    limits: dict[str, float | None] = {
        "CPU affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "CPU limit of the container or cgroup": cgroup.cores(),
        **_slurm_cores(),
    }
    known = {name: max(1, round(limit)) for name, limit in limits.items() if limit is not None}
    count = min([total, *known.values()])
    why = next((name for name, limit in known.items() if limit == count < total), "")
    return Share(count, total, why)


def _slurm_cores() -> dict[str, float | None]:
    """Return the cores that SLURM gave this process on this machine, by the variable that says so."""
    if "SLURM_JOB_ID" in os.environ:
        for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
            text = os.environ.get(name, "")
            if text.isdigit() and int(text):
                return {name: int(text)}
    return {}


def gpus() -> Share:
    """Return the NVIDIA GPUs of this process, by ``CUDA_VISIBLE_DEVICES``, else by SLURM's share."""
    total = _present()
    visible = _visible(total)
    count = sum(not each.isdigit() or int(each) < total for each in visible) if total else 0
    why = (VISIBLE if VISIBLE in os.environ else "SLURM_JOB_GPUS") if count < total else ""
    return Share(count, max(count, total), why)  # parts of a GPU (MIG) are named one by one


def choose_gpus(wanted: str | None = None) -> None:
    """Limit this process and its children to some GPUs, by ``CUDA_VISIBLE_DEVICES``.

    Call it before CUDA or Ray is used. Without ``wanted``, only SLURM's share is made visible.

    Args:
        wanted: ``--gpus``: numbers of ``nvidia-smi``, by commas; where ``CUDA_VISIBLE_DEVICES`` is set, some of its.

    Raises:
        UserError: one of them is absent, hidden, named twice, or no number.
    """
    total = _present()
    visible = _visible(total)
    if wanted is None:
        if total and VISIBLE not in os.environ and len(visible) < total:
            os.environ.update({VISIBLE: ",".join(visible), _ORDER: "PCI_BUS_ID"})
        return
    chosen = [each.strip() for each in wanted.split(",")]
    known = f"; this machine has {', '.join(visible)}" if visible else ""
    if not all(chosen) or len(set(chosen)) < len(chosen):
        raise UserError(f"--gpus takes numbers of GPUs by commas, each once, such as 0,2, but got '{wanted}'{known}.")
    if os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"--gpus names GPUs of this machine, but RAY_ADDRESS={os.environ['RAY_ADDRESS']} is a cluster; limit its "
            "worker processes with --hosts N."
        )
    if not total:
        raise UserError(f"--gpus {wanted} needs GPUs, but NVIDIA's driver knows none here; leave it out.")
    absent = [each for each in chosen if each not in visible]
    if absent:
        hidden = f" {VISIBLE}={os.environ[VISIBLE]} hides the others." if os.environ.get(VISIBLE) is not None else ""
        raise UserError(f"--gpus: there is no GPU {', '.join(absent)}{known or '; none is visible'}.{hidden}")
    if VISIBLE not in os.environ:
        os.environ[_ORDER] = "PCI_BUS_ID"  # the numbers of nvidia-smi; CUDA's own begin with the fastest
    os.environ[VISIBLE] = ",".join(chosen)


def _visible(total: int) -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if VISIBLE in os.environ:
        names = [each.strip() for each in os.environ[VISIBLE].split(",")]
        stop = next((place for place, each in enumerate(names) if not each or each == "-1"), len(names))
        return names[:stop]  # CUDA ignores what follows the first invalid one
    numbers = [str(number) for number in range(total)]
    shared = _numbers(os.environ.get("SLURM_STEP_GPUS") or os.environ.get("SLURM_JOB_GPUS") or "")
    # Where SLURM hides the other GPUs itself, those left are numbered from 0.
    return [each for each in numbers if each in shared] if 0 < len(shared) < total else numbers


def _numbers(text: str) -> set[str]:
    """Return the numbers of a list such as ``0,2-3``; empty if it is none."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return set()
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return {str(number) for part in ends for number in range(part[0], part[-1] + 1)}


def _present() -> int:
    """Return the number of NVIDIA GPUs that this machine, or container, has."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0
