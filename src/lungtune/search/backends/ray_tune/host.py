"""A device's host under Ray Tune: a pack host that also holds the ``Trainable`` of each of its trials.

Its methods run in threads of one actor (``max_concurrency``), several at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from lungtune.core import environment
from lungtune.search.backends.ray_hosts.host import PackHost

_here: dict[str, PackHost] = {}
"""The pack hosts of this process by the folder of their study; ``""``: of every study, in a host's process."""

_lock = threading.Lock()


def pack_host(study: str, threads: int, own: Sequence[str]) -> PackHost:
    """Return this process's pack host; in an ordinary actor it is created, for one trial at a time.

    Args:
        study: the study's folder.
        threads: cores this process may use.
        own: folders of a user's own families.
    """
    with _lock:
        host = _here.get("") or _here.get(study)
        if host is None:
            host = _here[study] = PackHost(threads, None, own, slots=1)
            host.open(study)
        return host


class TuneHost(PackHost):
    """Pack host and the trainables on it. Creation waits for a free slot; every other call waits for the creation."""

    def __init__(self, threads: int, driver: int | None, own: Sequence[str] = (), slots: int = 0) -> None:
        super().__init__(threads, driver, own, slots)
        self._trainables: dict[str, Any] = {}
        self._taken = 0
        self._cancelled: set[str] = set()
        self._created: dict[str, threading.Event] = {}
        self._each: dict[str, threading.Lock] = {}
        self._freed = threading.Condition()
        self._inside: set[str] = set()
        _here[""] = self

    @property
    def at_work(self) -> bool:
        """See ``PackHost.at_work``; a trainable also reads and writes Tune's checkpoints."""
        return bool(self._inside) or super().at_work

    def create(self, key: str, cls: type, named: Mapping[str, Any]) -> bool:
        """Create a trainable as soon as a slot is free.

        Args:
            key: of the trainable.
            cls: its class.
            named: arguments.
        """
        self.ready()
        slots = self._about["slots"]
        created = self._event(key)
        try:
            with self._freed:
                self._freed.wait_for(lambda: self._taken < slots or key in self._cancelled)
                if key in self._cancelled:
                    return False
                self._taken += 1
            try:
                trainable = cls(**named)
            except BaseException:
                self._free()
                raise
            self._trainables[key] = trainable
        finally:
            created.set()
        return True

    def call(self, key: str, method: str, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Call a trainable's method; ``stop`` and ``__ray_terminate__`` also remove it."""
        ends = method in ("stop", "__ray_terminate__")
        if ends and not self._event(key).is_set():
            with self._freed:
                self._cancelled.add(key)
                self._freed.notify_all()
        self._event(key).wait()
        with self._each.setdefault(key, threading.Lock()):
            self._inside.add(key)
            try:
                if not ends:
                    return getattr(self._trainables[key], method)(*args, **named)
                trainable = self._trainables.pop(key, None)
                if trainable is None:
                    return None
                try:
                    return trainable.stop()
                finally:
                    self._free()
            finally:
                self._inside.discard(key)
                self._beats += 1

    def _event(self, key: str) -> threading.Event:
        return self._created.setdefault(key, threading.Event())

    def _free(self) -> None:
        with self._freed:
            self._taken -= 1
            self._freed.notify()


def threads_here(cpus: float) -> int:
    """Return the cores of an actor with so many CPUs."""
    return max(1, min(int(cpus), environment.cores()))
