"""Watch over a host: tells one that is stuck or stopped from one that is busy. Imports no ray.

Signs of life are answers to the driver (:class:`Pulse`), beats (a step, or progress of a stage), CPU time and I/O.
Time is the driver's own: while the driver itself is stopped, none passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

SILENT = 60.0
"""Seconds without an answer, CPU time and I/O after which a host is replaced."""

SILENT_OPENING = 180.0
"""The same of a host on another machine that opens: libraries are loaded from slow disks while no thread answers."""

QUIET = 90.0
"""Seconds without a beat, CPU time and I/O after which a host with work is replaced, or 3 times its longest beat."""

BUSY = 1800.0
"""Seconds without a beat after which a host that uses CPU or I/O is replaced, or 10 times its longest beat."""

SHARE = 0.015
"""Least share of a core that counts as work. Ray's own threads use half of it in an idle process; a process among 60
busy ones on two cores has twice as much."""

MOVED = 1 << 16
"""Bytes that count as I/O; Ray's own threads write 5 kB a minute."""

NOTICE = 15.0
"""Seconds without a sign of life after which the user is told."""

GAP = 5.0
"""Longest time between two looks that counts."""


@dataclass(frozen=True)
class Pulse:
    """A host's answer.

    Attributes:
        doing: the current long operation other than training; empty if none.
        at_work: False where the host waits for the driver.
        beats: steps and changes of ``doing`` so far.
        cpu: seconds of the process.
        moved: bytes read and written by the process.
    """

    doing: str
    at_work: bool
    beats: int
    cpu: float
    moved: int


class Watch:
    """Signs of life of one host. Call :meth:`look` often, at least every ``GAP`` seconds.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._seen, self._now = clock, clock(), 0.0
        self._answered = self._alive = self._beat = 0.0
        self._beats, self._at_work = -1, False
        self._used: tuple[float, int] = (0.0, 0)
        self._longest = 0.0
        self.born = False
        """True once the host has answered."""
        self.local = False
        """True if it is on this machine, so that its process can be measured."""
        self.opened = False
        """True once it can train."""

    def look(self) -> None:
        """Let time pass."""
        now = self._clock()
        self._now, self._seen = self._now + min(now - self._seen, GAP), now

    def answered(self, pulse: Pulse) -> None:
        """Take an answer in."""
        self.born, self._answered = True, self._now
        if pulse.at_work and not self._at_work:
            self._alive = self._beat = self._now
        elif pulse.beats != self._beats:
            self._longest = max(self._longest, self._now - self._beat if self._at_work else 0.0)
            self._alive = self._beat = self._now
        self._beats, self._at_work = pulse.beats, pulse.at_work
        self.measured(pulse.cpu, pulse.moved)

    def measured(self, cpu: float, moved: int) -> None:
        """Take in what the process has used so far: CPU seconds, bytes of I/O."""
        if cpu - self._used[0] >= SHARE * QUIET or moved - self._used[1] >= MOVED:
            self._alive = self._now
        if self._alive == self._now:
            self._used = max(cpu, self._used[0]), max(moved, self._used[1])

    @property
    def silent(self) -> float:
        """Seconds without an answer."""
        return self._now - self._answered

    def verdict(self) -> str:
        """Return why the host must be replaced; empty if it need not."""
        still, beat = self._now - self._alive, self._now - self._beat
        patience = SILENT if self.local or self.opened else SILENT_OPENING
        if self.born and min(self.silent, still) > patience:
            return f"its process has not answered for {self.silent:.0f} s"
        if not self._at_work:
            return ""
        if still > max(QUIET, 3 * self._longest):
            return f"no step, CPU time or I/O for {still:.0f} s"
        if beat > max(BUSY, 10 * self._longest):
            return f"no step for {beat:.0f} s"
        return ""

    def notice(self) -> str:
        """Return what the user is told before a verdict: ``does not answer: 20 s``; empty if all is well."""
        if not self.born and self._now > NOTICE:
            return f"waits for Ray to start its process: {self._now:.0f} s"
        if self.born and self.silent > NOTICE:
            return f"does not answer: {self.silent:.0f} s"
        still = self._now - self._alive
        if self._at_work and still > max(NOTICE, 2 * self._longest):
            return f"no step, CPU time or I/O: {still:.0f} s"
        return ""
