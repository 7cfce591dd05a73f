"""Standard streams whose readers may go away: what can't be written is dropped, and the command goes on."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any


class _Raw(io.FileIO):
    """A descriptor whose failed writes (closed pipe, dead terminal, full disk) count as written."""

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # made non-blocking by another process
                select.select([], [self.fileno()], [])
            return written
        except OSError:
            return len(data)


def keep_going() -> None:
    """Replace the process's own stdout and stderr by streams that drop what can't be written, and can write any text.

    Closed ones are opened on nothing: a file that is opened while descriptor 1 or 2 is free gets it, and would be
    written to by whatever prints.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    sys.stdout = sys.stdout or io.StringIO()
    sys.stderr = sys.stderr or io.StringIO()
    for name in _own():
        before = getattr(sys, name)
        before.flush()
        raw = _Raw(before.fileno(), "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=before.encoding,
            errors="backslashreplace",  # an undecodable file name, a letter that the terminal's encoding lacks
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)


def _own() -> Iterator[str]:
    """Yield the names of the streams that are the process's own, not those of a test or a notebook."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            yield name
