"""Computation of features on a CPU: measured batch size, one thread per core."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from lungtune.core import environment
from lungtune.core.io import Lock

Item = TypeVar("Item")
Result = TypeVar("Result")

_AT_ONCE = 256
"""Largest batch of the computation of features; a head's batch may be larger than the backbone allows."""
_PIXELS = 1 << 23
"""Largest number of input values of a batch: an autoencoder needs a GB per image of 768 px."""
_LARGE, _IN_CACHE = 1 << 14, 1 << 18
"""On a CPU, cases of more than the first number of input values are computed in batches of the second, whose
activations fit its caches. Images per core-second at 224 px in batches of 1, 4, 8, 16: EfficientNet-Lite0 43, 53, 42,
36 (of 32: 25), ResNet-50 13, 14, 13, 12."""

_SIZES = (1, 4, 16, 64)
"""Batch sizes that are timed."""
_LONGEST, _SHORT = 1.0, 0.25
"""Seconds: batches expected to take longer than the first are not timed, those shorter than the second twice (kernels
are created in the first call)."""
_CLEARLY = 1.1
"""Least ratio of another batch size's rate to the usual one's to prefer it, against noise."""


def at_once(size: int, device: torch.device) -> int:
    """Return the default batch size for cases of ``size`` input values."""
    if device.type == "cpu" and size > _LARGE:
        return max(4, _IN_CACHE // size)
    return max(1, min(_AT_ONCE, _PIXELS // max(1, size)))


def fastest(call: Callable[[int], object], usual: int) -> int:
    """Return the batch size with the most cases per second of this thread's CPU time, or ``usual`` if close to it.

    Args:
        call: computes a batch of the size in its argument, in this thread only.
        usual: default batch size, timed too.
    """
    paces: dict[int, float] = {}
    for size in sorted({*_SIZES, usual}):
        best = max(paces.values(), default=0.0)
        if paces and (size > _LONGEST * best or list(paces.values())[-1] * _CLEARLY < best):
            break  # expected to be too slow, or past the best
        seconds = _seconds(call, size)
        paces[size] = size / min(seconds, _seconds(call, size) if seconds < _SHORT else seconds)
    first = max(paces, key=lambda size: paces[size])
    return usual if paces.get(usual, 0.0) * _CLEARLY >= paces[first] else first


def _seconds(call: Callable[[int], object], size: int) -> float:
    began = time.thread_time()  # excludes other processes
    call(size)
    return max(time.thread_time() - began, 1e-9)


class Workers:
    """Pool of threads that compute one item each.

    Args:
        pool: the threads.
        count: number of them.
    """

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        self._pool = pool
        self.count = count

    def ahead(
        self, function: Callable[[Item], Result], items: Iterable[Item], most: int
    ) -> Iterator[tuple[Item, Result]]:
        """Yield (item, result) in order; up to ``most`` further items are submitted ahead."""
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        for item in items:
            waiting.append((item, self._pool.submit(function, item)))
            if len(waiting) > most:
                done, result = waiting.popleft()
                yield done, result.result()
        for done, result in waiting:
            yield done, result.result()


@contextmanager
def workers(lock: Path) -> Iterator[Workers]:
    """Within the block, provide a thread per core, each with one torch thread; one thread if the lock is taken.

    Results are bitwise equal to those of one thread. Intra-op threads of torch synchronise in every operation: with
    other processes on the machine, they take several times as long as one.

    Args:
        lock: file that is locked by the process that uses all cores of the machine.
    """
    before, alone = torch.get_num_threads(), Lock(lock)
    held = alone.try_acquire()
    count = environment.cores() if held else 1
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
    try:
        torch.set_num_threads(1)
        yield Workers(pool, count)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
        if held:
            alone.release()
