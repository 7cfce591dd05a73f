"""Out-of-memory handling, and measurement of total and peak memory."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from typing import TypeVar

import torch


def exhausted(error: BaseException) -> bool:
    """True if ``error`` is an out-of-memory error of the device or the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)  # torch's own on a CPU


Result = TypeVar("Result")


def in_parts(count: int, stride: int, do: Callable[[int, int], Result]) -> list[Result]:
    """Return the results of ``do(first, last)`` per chunk of ``stride``, which halves on an out-of-memory error."""
    results: list[Result] = []
    first = 0
    while first < count:
        last = min(first + stride, count)
        try:
            results.append(do(first, last))
            first = last
            continue
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error) or last - first == 1:
                raise
        stride = (last - first) // 2
        release()
    return results


def release() -> None:
    """Free the memory that a failed step still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def total(device: torch.device) -> int | None:
    """Return the device's memory in bytes; None on a CPU, which the pack shares with everything else."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def peak() -> float:
    """Return the peak memory so far in MiB: of the GPU if there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
