"""One progress bar for long reading: a bar on a terminal, two plain lines in a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_QUIET = 50


def track(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield `items` while showing on stderr how many of `total` are done. Fewer than 50 show nothing."""
    if total < _QUIET:
        yield from items
        return
    started = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)
    else:
        print(f"{what}: {total:,} ...", file=sys.stderr, flush=True)
        yield from items
    print(f"{what}: {total:,} in {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
