"""Notes that a run leaves for the benchmark: one JSON line each, appended by any process."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def mark(path: str, event: str, **fields: Any) -> None:
    """Append one line; short appends of several processes do not mix."""
    line = json.dumps({"event": event, "time": time.time(), "pid": os.getpid(), **fields}) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, line.encode())
    os.close(handle)


def read(path: Path) -> list[dict[str, Any]]:
    """Return all lines in their order in time."""
    if not path.exists():
        return []
    return sorted((json.loads(line) for line in path.read_text().splitlines()), key=lambda line: line["time"])


class Clock:
    """Seconds by phase since the last :meth:`take`."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Add the time of the block to a phase."""
        began = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - began

    def take(self) -> dict[str, float]:
        """Return the seconds by phase and start anew."""
        taken, self.seconds = dict(self.seconds), Counter()
        return taken
