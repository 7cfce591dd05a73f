"""What is known of a device: deaths of its hosts, and when it is tried again. Imports no ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

MAX_DEATHS = 3
"""Largest number of consecutive deaths of a device's hosts before one is ready, or in training (see :meth:`died`)."""

FIRST, LAST = 60.0, 1800.0
"""Seconds until a device that cannot train is tried again: at first, doubled each time, at most."""


class Device:
    """A device of the search.

    Args:
        index: of the device.
        clock: in seconds.
    """

    def __init__(self, index: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.index, self._clock = index, clock
        self._unborn = 0
        self._boards: list[frozenset[int]] = []
        self._rests = 0
        self._due = 0.0

    @property
    def strikes(self) -> int:
        """Number of hosts that died in training since the last report."""
        return len(self._boards)

    def ready(self) -> None:
        """A host is ready."""
        self._unborn = 0

    def reported(self) -> None:
        """A trial reported: the device works."""
        self._boards.clear()
        self._rests = 0

    def not_opened(self) -> bool:
        """A host died before it was ready; return True if the device is to rest."""
        self._unborn += 1
        return self._unborn > MAX_DEATHS

    def died(self, board: Collection[int]) -> bool:
        """A host died in training; return True if the device is to rest.

        It is to blame if its last ``MAX_DEATHS`` hosts died without a report, and no trial was on all of them.

        Args:
            board: numbers of the trials on the host.
        """
        self._boards.append(frozenset(board))
        last = self._boards[-MAX_DEATHS:]
        return len(last) == MAX_DEATHS and not frozenset.intersection(*last)

    def rest(self) -> float:
        """Let the device rest; return the seconds until it is tried again."""
        seconds = min(LAST, FIRST * 2.0**self._rests)
        self._rests += 1
        self._unborn, self._due = MAX_DEATHS, self._clock() + seconds  # one death more is enough the next time
        self._boards.clear()
        return seconds

    @property
    def due(self) -> bool:
        """True if the device is to be tried again."""
        return self._clock() >= self._due
