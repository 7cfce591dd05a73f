"""Stop requests of a command: SIGINT, SIGTERM, SIGHUP, the end of a time budget.

A signal that is ignored when the command starts (``nohup``, background jobs of a shell) stays ignored. Outside the main
thread signals keep their handlers, and only :attr:`Stops.spent` tells that the time is over.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

SPENT = "the time budget is spent"
"""Reason of a stop by the budget."""

AGAIN = 0.3
"""Seconds within which further signals are the same request: one Ctrl-C may arrive through several processes."""

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_NOTICE = "\nstopping: trials end at their last checkpoint (again to stop at once) ...\n"


class Stopped(KeyboardInterrupt):
    """The command must end now; what it has written stays usable. ``reason``: a signal's name, or ``SPENT``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stops:
    """Stop requests of this process. The first raises :class:`Stopped` in the main thread, or calls a handler.

    After :class:`Stopped` was raised, only another SIGINT interrupts the clean-up. See :func:`stoppable`.
    """

    def __init__(self) -> None:
        self.reason = ""
        """Reason of the first request; empty if there was none."""
        self._began = time.monotonic()
        self._deadline = float("inf")
        self._timer: threading.Timer | None = None
        self._before: dict[int, Any] = {}
        self._handler: Callable[[str], object] | None = None
        self._at = float("-inf")
        self._raised = False

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    @property
    def spent(self) -> bool:
        """True if the time budget is over."""
        return time.monotonic() >= self._deadline

    def limit(self, seconds: float | None) -> None:
        """Set the time budget, counted from the command's begin; None or 0: no limit (any more)."""
        if self._timer is not None:
            self._timer.cancel()
        if not seconds:
            self._deadline = float("inf")
            return
        self._deadline = self._began + seconds
        if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
            return
        self._take(signal.SIGALRM)
        main = threading.get_ident()
        left = min(max(0.0, self._deadline - time.monotonic()), threading.TIMEOUT_MAX)
        self._timer = threading.Timer(left, lambda: signal.pthread_kill(main, signal.SIGALRM))
        self._timer.daemon = True
        self._timer.start()

    def check(self) -> None:
        """Raise :class:`Stopped` if a stop was requested: a library may have swallowed the first exception."""
        if self.reason or self.spent:
            self.reason = self.reason or SPENT
            raise Stopped(self.reason)

    @contextmanager
    def deferred(self, handler: Callable[[str], object]) -> Iterator[None]:
        """Within the block, the first request calls ``handler(reason)``; a second one raises :class:`Stopped`.

        ``handler`` is called in a signal handler. A request from before the block calls it at once.
        """
        if self.reason:
            handler(self.reason)
        self._handler = handler
        try:
            yield
        finally:
            self._handler = None

    def hold(self) -> None:
        """Install the handlers again: libraries such as Ray replace them when they start in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in self._before:
                signal.signal(number, self._signalled)

    def _take(self, number: int) -> None:
        before = signal.getsignal(number)
        if number not in self._before and before not in (signal.SIG_IGN, None):
            self._before[number] = before
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        by_time = number == getattr(signal, "SIGALRM", None)
        first, now = not self.reason, time.monotonic()
        if not first and (by_time or now - self._at < AGAIN):
            return
        self._at = now
        self.reason = self.reason or (SPENT if by_time else signal.Signals(number).name)
        if first and self._handler is not None:
            self._handler(self.reason)
            if not by_time:
                with suppress(OSError):
                    os.write(2, _NOTICE.encode())  # print() is not reentrant
            return
        if self._raised and number != signal.SIGINT:
            return
        self._raised = True
        raise Stopped(self.reason)

    def _install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._take(number)

    def _remove(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, before in self._before.items():
            signal.signal(number, before)


PARENT = "LUNGTUNE_PARENT"
"""Environment variable of a command that another one started: the id of that process."""


def part_of() -> int | None:
    """Return the id of the command that started this one, or None; once, so that no process below this one sees it."""
    parent = os.environ.pop(PARENT, "")
    return int(parent) if parent.isdigit() else None


def end_with(parent: int) -> None:
    """Send this process SIGTERM within a second of the end of its parent."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def ignore() -> None:
    """Ignore SIGTERM and SIGHUP from now on: the exit code is decided, and what runs at exit must not change it."""
    for number in _SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)


_active: Stops | None = None


@contextmanager
def stoppable() -> Iterator[Stops]:
    """Within the outermost block, take the stop requests of this process; nested blocks share its :class:`Stops`."""
    global _active
    if _active is not None:
        yield _active
        return
    _active = Stops()
    _active._install()
    try:
        yield _active
    finally:
        _active._remove()
        _active = None
