"""Runs a command and measures its whole process tree: wall, CPU seconds, peak memory."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

EVERY = 0.5
PSS_EVERY = 4
"""Samples between two readings of the proportional set size, which is slow to read."""


@dataclass
class Usage:
    """Resources used by a command.

    Attributes:
        began: unix time of its start.
        wall: seconds.
        cpu: user and system seconds of all processes; what one burnt after its last sample is missing.
        rss_mb: peak of the summed resident sizes; shared pages count once a process.
        pss_mb: peak of the summed proportional sizes; shared pages count once.
        processes: how many there were.
        code: exit code.
    """

    began: float
    wall: float = 0.0
    cpu: float = 0.0
    rss_mb: float = 0.0
    pss_mb: float = 0.0
    processes: int = 0
    code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def measure(command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path, timeout: float) -> Usage:
    """Run a command to its end, its output in ``log``; end its tree when it takes too long (exit code 124).

    A process belongs to the tree from the moment its parent does, also when the parent dies before it: Ray's daemons
    and workers are counted.
    """
    usage = Usage(time.time())
    cpu: dict[tuple[int, float], float] = {}
    with log.open("w") as out:
        root = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=dict(env), cwd=cwd)
        began, turn, known = time.monotonic(), 0, {root.pid: psutil.Process(root.pid)}
        while root.poll() is None:
            known = _grown(known)
            rss = pss = 0.0
            for process in known.values():
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        cpu[process.pid, process.create_time()] = times.user + times.system
                        rss += process.memory_info().rss / 2**20
                    pss += _pss(process.pid) if turn % PSS_EVERY == 0 else 0.0
                except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                    continue
            usage.rss_mb, usage.pss_mb = max(usage.rss_mb, rss), max(usage.pss_mb, pss)
            turn += 1
            if time.monotonic() - began > timeout:
                _end(known)
                usage.code = 124
            try:
                root.wait(EVERY)
            except subprocess.TimeoutExpired:
                continue
        usage.wall = time.monotonic() - began
    usage.cpu, usage.processes = sum(cpu.values()), len(cpu)
    usage.code = usage.code or root.returncode
    gone = _grown(known)
    psutil.wait_procs(list(gone.values()), timeout=10)  # Ray's daemons follow their driver
    _end({pid: process for pid, process in gone.items() if process.is_running()})
    return usage


def _grown(known: dict[int, psutil.Process]) -> dict[int, psutil.Process]:
    """Return the processes that still run, and their children."""
    alive = {pid: process for pid, process in known.items() if process.is_running()}
    waiting = list(alive.values())
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["pid", "ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.info["pid"])
    while waiting:
        for pid in children.get(waiting.pop().pid, []):
            if pid not in alive:
                try:
                    alive[pid] = psutil.Process(pid)
                except psutil.NoSuchProcess:
                    continue
                waiting.append(alive[pid])
    return alive


def _pss(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:")), 0.0)


def _end(processes: Mapping[int, psutil.Process]) -> None:
    for process in processes.values():
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
