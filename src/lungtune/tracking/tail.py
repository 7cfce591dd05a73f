"""Incremental reader of a journal; returns complete lines only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHUNK = 4 << 20


class Tail:
    """Follows one journal by byte offset. It never writes, never locks and never waits for the journal's writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.lines = 0
        """Whole lines read so far, blank and damaged ones included."""

    def read(self) -> list[dict[str, Any]]:
        """Return the next events (at most some megabytes of them); none when nothing was added."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                block = file.read(CHUNK)
                while block and b"\n" not in block and (more := file.read(CHUNK)):
                    block += more
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        self.offset += end
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
