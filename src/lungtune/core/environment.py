"""Run environment of a study: versions, commit, command line, process and whether a recorded process still runs."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lungtune.core import devices
from lungtune.core.paths import ROOT

_PACKAGES = ("lungtune", "ray", "optuna", "mlflow", "torch", "open_clip_torch", "numpy", "pandas", "scikit-learn")


_SLACK = 2.0
"""Seconds by which two readings of a process's start may differ: the clock is adjusted in between."""


def describe() -> dict[str, Any]:
    """Return ``command``, ``versions`` {package: version} and ``git`` {commit, changed}."""
    return {"command": shlex.join(sys.argv), "versions": versions(), "git": _git()}


def versions() -> dict[str, str]:
    """Return {package: version}, Python's included."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def changed(before: Mapping[str, str]) -> str:
    """Return the packages whose version is another than ``before``: ``torch 2.4 then, 2.5 now``; empty if none is."""
    now = versions()
    return ", ".join(
        f"{name} {then} then, {now[name]} now" for name, then in before.items() if name in now and now[name] != then
    )


def process() -> dict[str, Any]:
    """Return what identifies this process: ``pid``, ``host``, ``started`` (unix seconds) and ``boot``.

    ``boot`` names the boot of the machine and the process namespace (of a container): pids of one are not of another.
    """
    return {"pid": os.getpid(), "host": socket.gethostname(), "started": _started(os.getpid()), "boot": _boot()}


def runs(entry: Mapping[str, Any]) -> bool | None:
    """Return whether another process, recorded by :func:`process`, still runs; None where this can't be seen from here.

    Args:
        entry: a journal event with ``pid``, ``host`` and ``time``; 0.1 recorded no ``started`` and ``boot``, so a
            process of that pid that is older than the event is taken for it.
    """
    if entry.get("host") != socket.gethostname() or entry.get("boot", _boot()) != _boot():
        return None
    pid = entry.get("pid")
    if pid == os.getpid() or not isinstance(pid, int):
        return False
    began = _started(pid)
    if began is None:
        return False
    started = entry.get("started")
    if isinstance(started, (int, float)):
        return abs(began - started) < _SLACK
    return began < float(entry.get("time", 0.0)) + _SLACK


def _started(pid: int) -> float | None:
    """Return when a process started, in unix seconds; None if it does not run."""
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else round(found.create_time(), 2)
    except psutil.NoSuchProcess:
        return None


@cache
def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        import psutil

        return str(round(psutil.boot_time() / 10))


def cores() -> int:
    """Return the number of cores this process may use (:func:`devices.cores`)."""
    return devices.cores().count


def _git() -> dict[str, Any]:
    unknown = {"commit": None, "changed": None}
    if ROOT is None:
        return unknown

    def ask(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return unknown
