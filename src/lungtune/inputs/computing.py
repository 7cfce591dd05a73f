"""Features on a CPU: batches of the size that is fastest there, on all its cores."""

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
"""Most cases whose features are computed together: a head's batch may be too large for what is below it."""
_PIXELS = 1 << 23
"""Most input numbers of these: an autoencoder of images of 768 px holds a GB for each."""
_LARGE, _IN_CACHE = 1 << 14, 1 << 18
"""On a CPU, cases of more numbers than the first are computed in batches of the second, whose activations stay in its
caches. Images a core-second in batches of 1, 4, 8, 16 at 224 px: EfficientNet-Lite0 43, 53, 42, 36 (of 32: 25),
ResNet-50 13, 14, 13, 12."""

_SIZES = (1, 4, 16, 64)
"""Batches that are timed."""
_LONGEST, _SHORT = 1.0, 0.25
"""Seconds: batches expected to take longer are not timed, shorter ones twice (kernels are made in the first call)."""
_CLEARLY = 1.1
"""Pace over that of the usual batch from which another is taken: which one is taken must not hang on noise."""


def at_once(size: int, device: torch.device) -> int:
    """Return how many cases of so many input numbers are usually computed together."""
    if device.type == "cpu" and size > _LARGE:
        return max(4, _IN_CACHE // size)
    return max(1, min(_AT_ONCE, _PIXELS // max(1, size)))


def fastest(call: Callable[[int], object], usual: int) -> int:
    """Return the batch size with the most cases a second of this thread's processor time, or ``usual`` if close to it.

    Args:
        call: computes a batch of the given size, in this thread alone.
        usual: a further size that is timed.
    """
    paces: dict[int, float] = {}
    for size in sorted({*_SIZES, usual}):
        best = max(paces.values(), default=0.0)
        if paces and (size > _LONGEST * best or list(paces.values())[-1] * _CLEARLY < best):
            break  # too slow to be tried, or past the best
        seconds = _seconds(call, size)
        paces[size] = size / min(seconds, _seconds(call, size) if seconds < _SHORT else seconds)
    first = max(paces, key=lambda size: paces[size])
    return usual if paces.get(usual, 0.0) * _CLEARLY >= paces[first] else first


def _seconds(call: Callable[[int], object], size: int) -> float:
    began = time.thread_time()  # what other processes do at the same time does not count
    call(size)
    return max(time.thread_time() - began, 1e-9)


class Workers:
    """Threads that compute one item each.

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
        """Yield items with their results, in order; up to ``most`` further ones are computed or wait meanwhile."""
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
    """Give a thread for each core of the machine, one for the second process that wants them; torch has one in each.

    Results are those of one thread, bit by bit. torch's own threads would wait for each other in every operation: with
    other processes on the machine, they take several times as long as one.

    Args:
        lock: the machine's; who holds it has the cores.
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
