"""Processes of hosts that this process started."""

from __future__ import annotations

import os
import time
from pathlib import Path


def hosts_here() -> list[int]:
    """Return the ids of the live hosts below this process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if title.startswith(b"ray::") and b"Host" in title and _below_us(int(entry.name)):
            found.append(int(entry.name))
    return found


def gone(seconds: float = 20.0) -> bool:
    """Wait until no host is left; return True if so. A killed process takes a moment to end."""
    end = time.monotonic() + seconds
    while hosts_here() and time.monotonic() < end:
        time.sleep(0.2)
    return not hosts_here()


def _below_us(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False
    return False
