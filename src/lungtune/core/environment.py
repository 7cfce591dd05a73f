"""Run environment of a study: versions, commit, command line, process."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from typing import Any

from lungtune.core import devices
from lungtune.core.paths import ROOT

_PACKAGES = ("lungtune", "ray", "optuna", "mlflow", "torch", "open_clip_torch", "numpy", "pandas", "scikit-learn")


def describe() -> dict[str, Any]:
    """Return ``command``, ``versions`` {package: version} and ``git`` {commit, changed}."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"command": shlex.join(sys.argv), "versions": versions, "git": _git()}


def process() -> dict[str, Any]:
    """Return ``pid`` and ``host`` of this process."""
    return {"pid": os.getpid(), "host": socket.gethostname()}


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
