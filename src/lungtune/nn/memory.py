"""Running out of memory: how it is told from other failures, and what is left of it."""

from __future__ import annotations

import gc

import torch


def exhausted(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on the device or beside it."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)  # torch's own on a CPU


def release() -> None:
    """Give back what a failed step still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def total(device: torch.device) -> int | None:
    """Return the device's memory in bytes; None on a CPU, which the pack shares with everything else."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
