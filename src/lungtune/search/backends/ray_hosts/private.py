"""Keeps a local Ray to its user: files in a folder that others cannot enter, ports on the loopback interface.

Ray itself makes ``/tmp/ray``, its logs and sockets writable for everybody, and listens on all interfaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import ray

from lungtune.core.io import Lock
from lungtune.errors import StudyError
from lungtune.search.backends.ray_hosts import processes

ADDRESS = "127.0.0.1"
_PREFIX = "lungtune-ray-"
_LONGEST = 103 - len("/session_2026-01-31_12-00-00_123456_1234567/sockets/plasma_store")
"""Largest length of a Ray folder's path: a socket's path has at most 103 characters (macOS; Linux 107)."""

_YOUNG = 60.0
"""Seconds in which an unlocked folder may still be in use: it is being made, or its processes are ending."""

_held: list[tuple[Path, Lock]] = []
"""The folder of this process's Ray and its lock."""


def folder() -> Path:
    """Return a new folder for Ray, inside one of mode 0700; delete those of processes that were killed.

    It lies in ``RAY_TMPDIR``, else in the folder of temporary files, else in ``/tmp`` where that one's path is too
    long. :func:`clean` deletes it.

    Raises:
        StudyError: ``RAY_TMPDIR`` is too long, or not writable.
    """
    named = os.environ.get("RAY_TMPDIR")
    places = [Path(named or tempfile.gettempdir()).absolute(), *([] if named else [Path("/tmp")])]
    room = _LONGEST - len(f"/{_PREFIX}12345678/ray")
    place = next((each for each in places if len(os.fsencode(each)) <= room), None)
    if place is None:
        raise StudyError(
            f"RAY_TMPDIR must have at most {room} characters, as paths of sockets are limited, but is {places[0]}; "
            "name a shorter one."
        )
    try:
        _sweep(place)
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        lock = Lock(made / "lock")
        lock.try_acquire()
    except OSError as error:
        raise StudyError(f"{place} must be writable for Ray, but: {error.strerror}. RAY_TMPDIR moves it.") from error
    _held.append((made, lock))
    return made / "ray"


def clean() -> None:
    """Delete the folders that :func:`folder` made; kill what is left of Ray in them, as agents outlive their raylet."""
    while _held:
        made, lock = _held.pop()
        processes.kill_of(made)
        shutil.rmtree(made, ignore_errors=True)
        lock.release()


def _sweep(place: Path) -> None:
    """Delete this user's folders whose processes ended without doing so."""
    for left in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            about, lock = left.lstat(), Lock(left / "lock")
            if about.st_uid != os.getuid() or left.is_symlink() or time.time() - about.st_mtime < _YOUNG:
                continue
            if (left / "lock").exists() and lock.try_acquire():
                shutil.rmtree(left, ignore_errors=True)
                lock.release()


@contextlib.contextmanager
def on_loopback() -> Iterator[dict[str, Any]]:
    """Within the block, ``ray.init`` with the yielded arguments listens on the loopback interface only.

    Ray replaces a loopback address by the machine's, except where it supports no clusters (macOS, Windows): its switch
    for that is set. Without effect where a later Ray has none.
    """
    constants: Any = ray._private.ray_constants
    switch = "ENABLE_RAY_CLUSTER"
    with contextlib.ExitStack() as stack:
        if hasattr(constants, switch):
            stack.enter_context(mock.patch.object(constants, switch, False))
        yield {"_node_ip_address": ADDRESS}
