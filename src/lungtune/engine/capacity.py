"""Measurement of the number of slots of a pack by a short dry run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lungtune.engine import memory
from lungtune.engine.pack import Pack

_MARGIN = 0.9
"""Share of the device's memory that may be used; the rest is for validation and longer batches."""
_ENOUGH = 0.95
"""A smaller pack with this share of the best rate is preferred: its trials report, and are stopped, sooner."""
_WORTH = 1.03
"""Larger packs are tried while doubling raises the rate by at least this factor."""
_SECONDS = 0.05
"""Minimum timing duration per size, in seconds."""


@dataclass(frozen=True)
class Rate:
    """A pack of ``slots``: seconds of one step, images a second over all slots, MiB a slot (0.0 where unknown)."""

    slots: int
    seconds: float
    images: float
    memory: float


@dataclass(frozen=True)
class Capacity:
    """Chosen number of slots, the reason, and the measurements."""

    slots: int
    why: str
    rates: tuple[Rate, ...]


def measure(pack: Pack, configurations: Sequence[Any], cap: int) -> Capacity:
    """Find the number of slots with the best throughput within the memory; the pack is empty before and after.

    Sizes 1, 2, 4, ... up to ``cap`` are tried for as long as that pays and memory lasts.

    Args:
        pack: an empty pack with room for ``cap`` slots.
        configurations: ``Params`` of typical trials; taken in turn.
        cap: most slots, >= 1.
    """
    rates: list[Rate] = []
    limit, ended = memory.total(pack.device), f"at most {cap} are allowed"
    size = 1
    while size <= cap:
        rate = _rate(pack, [configurations[i % len(configurations)] for i in range(size)])
        if rate is None:
            ended = f"{size} do not fit into memory"
            break
        rates.append(rate)
        if len(rates) > 2 and rate.images < _WORTH * max(r.images for r in rates[:-1]):
            ended = f"{size} gain nothing more"
            break
        if limit and rate.memory * 2 * size > _MARGIN * limit / 2**20 and size < cap:
            ended = f"{2 * size} would not fit into memory"
            break
        size = min(2 * size, cap) if size < cap else cap + 1
    if not rates:
        return Capacity(1, "not even one fits into memory at its full batch size", ())
    best = max(rate.images for rate in rates)
    chosen = next(rate for rate in rates if rate.images >= _ENOUGH * best)
    why = f"{chosen.images:.0f} images/s, {rates[0].images:.0f} one by one"
    return Capacity(chosen.slots, f"{why}; {ended}", tuple(rates))


def set_reproducible_threads() -> None:
    """Set torch's number of threads as in a search's hosts: one without a GPU, because every core has a host.

    More threads sum in another order; at a high learning rate, a retrained recipe would not reproduce its score.
    """
    if not torch.cuda.is_available():
        torch.set_num_threads(1)


def _rate(pack: Pack, configurations: Sequence[Any]) -> Rate | None:
    """Time steps of a pack of these; None when they do not fit into memory together."""
    cuda = pack.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(pack.device)
    slots = [pack.join(params, seed=i, horizon=10**9) for i, params in enumerate(configurations)]
    try:
        pack.step()  # warm-up, not timed: caches fill, kernels are selected
        times: list[float] = []
        while len(times) < 2 or sum(times) < _SECONDS:
            began = _now(cuda)
            pack.step()
            times.append(_now(cuda) - began)
    except (RuntimeError, MemoryError) as error:
        if not memory.exhausted(error):
            raise
        return None
    finally:
        for slot in slots:
            pack.leave(slot)
        fits, pack.rows = pack.rows is None, None
    seconds = min(times)  # other processes can only add time
    images = sum(params.batch_size for params in configurations) / seconds
    used = torch.cuda.max_memory_allocated(pack.device) / 2**20 / len(slots) if cuda else 0.0
    return Rate(len(slots), seconds, images, used) if fits else None


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
