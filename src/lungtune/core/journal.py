"""Append-only JSON-lines journal of a study; every event is fsynced before it takes effect."""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lungtune.core import contained
from lungtune.core.io import fsync_folder
from lungtune.errors import MachineError, StudyError


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON types; NaN and infinities, which JSON lacks, become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def read(path: Path) -> list[dict[str, Any]]:
    """Return the events of a journal; a torn last line is skipped.

    Raises:
        StudyError: a line before the last is not a JSON object, or names a file outside the study; or the file can't be
            read.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StudyError(f"{path} must be a file that can be read, but: {error.strerror}.") from error
    lines = raw.split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        event = _event(line)
        if event is None:
            if number == len(lines):  # never ended by a newline: the write was cut short
                break
            raise StudyError(
                f"{path}:{number}: every line must be a JSON object with an 'event', but this one is not. "
                f"Move the damaged line out of the file to go on without it."
            )
        for checkpoint in _checkpoints(event):
            try:
                contained.relative(checkpoint)
            except ValueError as error:
                raise StudyError(
                    f"{path}:{number}: a checkpoint {error}; lungtune writes no such line, so don't use this study."
                ) from error
        events.append(event)
    return events


def _checkpoints(event: dict[str, Any]) -> list[Any]:
    """Return the paths that an event names."""
    donor = event.get("donor")
    named = [event.get("checkpoint"), donor.get("checkpoint") if isinstance(donor, dict) else None]
    return [each for each in named if each is not None]


def last(path: Path, kind: str) -> dict[str, Any] | None:
    """Return the last event of a kind, without reading the others; None where there is none."""
    raw = b"\n" + path.read_bytes()
    place = raw.rfind(b'\n{"event":"%s"' % kind.encode())
    return _event(raw[place + 1 :].partition(b"\n")[0]) if place >= 0 else None


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


class Journal:
    """Appends events durably. One process writes a journal; any number read it.

    A second writer is noticed: the file has then another length than this one left it with.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; a torn last line is moved to ``<path>.torn``."""
        self.path = path
        self.healed = self._heal()
        self._lock = threading.Lock()
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._size = os.fstat(self._fd).st_size
        fsync_folder(path.parent)

    def _heal(self) -> int:
        """Complete a last line that lacks only its newline; move a torn one to ``.torn`` and return its length."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        end = raw.rfind(b"\n") + 1
        torn = raw[end:]
        if torn and _event(torn) is not None:
            with open(self.path, "ab") as file:
                file.write(b"\n")
            return 0
        if torn:
            with open(self.path.with_name(self.path.name + ".torn"), "ab") as aside:
                aside.write(torn + b"\n")
            os.truncate(self.path, end)
        return len(torn)

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Write one event; when this returns it survives a power cut.

        Raises:
            MachineError: the disk is full, or the file cannot be written, was renamed or removed; nothing half-written
                stays.
            StudyError: another process wrote to it; nothing is written.
        """
        entry = {"event": event, "time": round(time.time(), 3), **_plain(fields)}
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            before: int | None = None
            try:
                before = os.fstat(self._fd).st_size
                self._check(before)
                written = os.write(self._fd, line)
                if written != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._fd)
            except OSError as error:
                self._cut(before)
                remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
                raise MachineError(
                    f"{self.path} could not be written ({error.strerror}). What it holds is whole: {remedy} and go on."
                ) from error
            self._size = before + len(line)
        return entry

    def _cut(self, size: int | None) -> None:
        """Remove what a failed write may have left; where that fails too, a torn line is put aside at the next open."""
        if size is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, size)

    def _check(self, size: int) -> None:
        if not self.in_place:
            raise MachineError(
                f"{self.path} was renamed or removed while this process wrote to it. What it holds is whole: "
                f"go on under the name that its folder has now."
            )
        if size != self._size:
            raise StudyError(
                f"another process writes to {self.path} too, so this one stops. Nothing that it holds is lost; "
                f"see that one process runs the study."
            )

    @property
    def in_place(self) -> bool:
        """True if the path is still that of the open file."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except OSError:
            return False

    def touch(self) -> None:
        """Set the file's time of modification to now."""
        with self._lock, suppress(OSError):
            if self._fd >= 0:
                os.utime(self._fd)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1
