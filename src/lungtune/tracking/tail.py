"""Incremental reader of a journal; returns complete lines only, and notices when what it read was changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHUNK = 4 << 20


class Rewritten(Exception):
    """The journal was cut or replaced: what was read of it is no longer there."""


class Tail:
    """Follows one journal by byte offset. It never writes, never locks and never waits for the journal's writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self._mark = b""
        """The last line read, which must stay where it is; it begins with its time."""
        self.lines = 0
        """Whole lines read so far, blank and damaged ones included."""

    def read(self) -> list[dict[str, Any]]:
        """Return the next events (at most some megabytes of them); none when nothing was added.

        Raises:
            Rewritten: begin again with a new reader.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset - len(self._mark))
                if file.read(len(self._mark)) != self._mark:
                    raise Rewritten
                block = file.read(CHUNK)
                while block and b"\n" not in block and (more := file.read(CHUNK)):
                    block += more
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        self.offset += end
        if end:
            self._mark = block[block.rfind(b"\n", 0, end - 1) + 1 : end]
        events = []
        for line in block[:end].split(b"\n")[:-1]:
            self.lines += 1
            try:
                event = json.loads(line)
            except ValueError:  # a damaged line: reported by the study on resume; tracking continues with the rest
                continue
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                events.append(event)
        return events

    def behind(self) -> int:
        """Return how many whole lines of the journal have not been read yet."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return sum(block.count(b"\n") for block in iter(lambda: file.read(CHUNK), b""))
        except FileNotFoundError:
            return 0
