"""Processes of this machine as the kernel sees them: identity, CPU time, I/O, whether stopped, end. Imports no ray.

Without ``/proc`` (macOS) a process knows its own CPU time only, and no other process is measured or killed.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path

import psutil

Identity = tuple[str, int, str]
"""Machine, process id and start time of a process: unique where ids are used again, or equal in two containers."""


def identity() -> Identity:
    """Return that of this process."""
    return _machine(), os.getpid(), _started(os.getpid())


def here(process: Identity) -> int | None:
    """Return the id of a process if it lives on this machine; else None."""
    machine, pid, started = process
    return pid if started and machine == _machine() and _started(pid) == started else None


def kill(process: Identity) -> bool:
    """Kill a process, stopped or not, if it lives on this machine; return True if so."""
    pid = here(process)
    if pid is None:
        return False
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    return True


def kill_of(folder: Path) -> None:
    """Kill this user's processes that were started with an option ``--NAME=PATH`` below a folder, as Ray's are."""
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"] or (), process.info["uids"]
        mine = uids is not None and uids.real == os.getuid()
        if mine and any(word.startswith("--") and f"={folder}/" in word for word in words):
            with suppress(psutil.Error):
                process.kill()


def used(pid: int | None = None) -> tuple[float, int]:
    """Return CPU seconds of a process (default: this one) and bytes it has read and written; zeros where unknown."""
    moved, folder = 0, Path("/proc", str(pid or "self"))
    with suppress(OSError, ValueError):
        fields = dict(line.split(": ") for line in (folder / "io").read_text().splitlines())
        moved = sum(int(fields[name]) for name in ("rchar", "wchar", "read_bytes"))  # read_bytes: of memory maps
    if pid is None:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime, moved
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK") if stat else 0.0, moved


def stopped(pid: int) -> bool:
    """True if a process of this machine is stopped (SIGSTOP, a debugger)."""
    return _stat(pid)[:1] in (["T"], ["t"])


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str:
    stat = _stat(pid)
    return stat[19] if stat and stat[0] != "Z" else ""


def _machine() -> str:
    """Return what differs between machines, and between containers with process ids of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
