"""Backends, one module or folder each, discovered by file name; each exposes its class as ``BACKEND``."""

from __future__ import annotations

import os
import sys

from lungtune.core import members
from lungtune.errors import StudyError, did_you_mean
from lungtune.search.backend import Backend

# Read when ray is imported, which only the modules of this package do.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment, not a copy that uv builds
for (
    _name,
    _value,
) in {  # a start on a busy machine takes minutes; processes of a local Ray that died are noticed at once
    "gcs_server_port_wait_time_s": 120,
    "gcs_rpc_server_connect_timeout_s": 60,
    "py_gcs_connect_timeout_s": 120,
    "raylet_client_connect_timeout_milliseconds": 10_000,
    "agent_register_timeout_ms": 300_000,
    "worker_register_timeout_seconds": 300,
    "health_check_failure_threshold": 30,
}.items():
    os.environ.setdefault(f"RAY_{_name}", str(_value))


def get(name: str) -> type[Backend]:
    """Return a backend's class by name.

    Raises:
        StudyError: no backend has that name.
    """
    known = members.names(sys.modules[__name__])
    if name not in known:
        raise StudyError(f"backend must be {' or '.join(known)}, but got {name!r}.{did_you_mean(name, known)}")
    backend: type[Backend] = members.load(sys.modules[__name__], name, "BACKEND")
    return backend
