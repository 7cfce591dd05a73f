"""Ray Tune's trials as objects inside hosts: handles in place of its actors.

``TuneController`` takes an actor class from ``_class_cache``, calls ``options`` and ``remote`` of it and methods of the
handle returned. :func:`install` puts a class there whose actors are trainables inside a ``TuneHost``. ``_class_cache``
and ``_tune_controller`` are private to Ray: where they are gone, Tune's trials stay actors of their own.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorClass

log = logging.getLogger(__name__)

CPUS = 0.001
"""Cores that Tune reserves for a trial inside a host, which owns the device; a request may not be empty."""

Place = Callable[[Mapping[str, Any]], Any]
"""Returns the Ray handle of the ``TuneHost`` that is to train a trial, from the arguments of its trainable."""


def install(controller: Any, place: Place) -> bool:
    """Let a controller's trials run inside hosts; return False where this version of Ray does not allow it.

    Args:
        controller: what Tune passes to a scheduler.
        place: returns the host of a trial.
    """
    own = vars(controller).get("_tune_controller", controller)
    if not hasattr(own, "_class_cache") or not callable(getattr(own._class_cache, "get", None)):
        log.warning("Ray %s keeps actor classes elsewhere: each trial runs in a process of its own.", ray.__version__)
        return False
    own._class_cache = _Cache(place)
    return True


def at_end(controller: Any, call: Callable[[], None]) -> None:
    """Let a function be called when a controller has cleaned up after its experiment."""
    own = vars(controller).get("_tune_controller", controller)
    clean = own.cleanup

    def cleanup() -> None:
        try:
            clean()
        finally:
            call()

    own.cleanup = cleanup


class _Cache:
    """In place of ``_ActorClassCache``."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._classes: dict[type, VirtualClass] = {}

    def get(self, cls: type) -> VirtualClass:
        if cls not in self._classes:
            self._classes[cls] = VirtualClass.of(cls, self._place)
        return self._classes[cls]


class VirtualClass(ActorClass[Any]):
    """Actor class whose actors are trainables inside hosts; Ray checks ``isinstance``."""

    _trainable: type
    _place: Place
    _count: itertools.count[int]

    def __init__(self, *args: Any) -> None:
        """Not called: :meth:`of` creates instances."""

    @classmethod
    def of(cls, trainable: type, place: Place) -> VirtualClass:
        """Return the class of a trainable."""
        virtual = object.__new__(cls)
        virtual._trainable, virtual._place, virtual._count = trainable, place, itertools.count()
        return virtual

    def options(self, **options: Any) -> VirtualClass:
        """Return itself: the host decides where its trainables run."""
        return self

    def remote(self, **named: Any) -> Handle:  # type: ignore[override]
        """Return the handle of a new trainable; it is created by the first call of ``__ray_ready__``."""
        key = f"{os.getpid()}-{id(self)}-{next(self._count)}"
        return Handle(self._place(named), key, self._trainable, named)


class Handle:
    """In place of an actor's handle."""

    def __init__(self, host: Any, key: str, trainable: type, named: Mapping[str, Any]) -> None:
        self._host, self._key = host, key
        self.create: Callable[[], Any] = lambda: host.create.remote(key, trainable, named)

    def __getattr__(self, name: str) -> _Method:
        if name.startswith("__") and name not in ("__ray_ready__", "__ray_terminate__"):
            raise AttributeError(name)
        return _Method(self, name)


class _Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *args: Any, **named: Any) -> Any:
        handle = self._handle
        if self._name == "__ray_ready__":
            return handle.create()
        return handle._host.call.remote(handle._key, self._name, args, named)

    def options(self, **options: Any) -> _Method:
        return self
