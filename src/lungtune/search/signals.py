"""Handlers of SIGINT and SIGTERM during a search."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lungtune.search.controller import TrialController


@contextmanager
def stop_on_signals(controller: TrialController) -> Iterator[None]:
    """Within the block, a first SIGINT or SIGTERM requests a stop; a second one raises ``KeyboardInterrupt``."""

    def stop(number: int, frame: FrameType | None) -> None:
        if controller.stop_reason:
            raise KeyboardInterrupt
        controller.request_stop(signal.Signals(number).name)
        print("\nstopping: trials end at their last checkpoint (again to stop at once) ...", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
