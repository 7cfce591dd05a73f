"""Dropout masks: correct rate, independent per trial, independent of request sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lungtune.layers.dropout import Bits, kept

CPU = torch.device("cpu")


def masks(counts: list[int], chances: list[float], seeds: list[int]) -> list[Tensor]:
    bits = [Bits(CPU).restart(seed) for seed in seeds]
    return list(kept(counts, chances, bits, torch.empty(0)).split(counts))


def test_masks_have_their_rate_and_own_random_stream() -> None:
    counts = [9_000, 90_001, 30_003]
    together = masks(counts, [0.0, 0.25, 0.9], [1, 2, 3])
    assert torch.cat(together).unique().tolist() == [0.0, 1.0]
    shares = [mask.mean().item() for mask in together]
    assert shares == [1.0, pytest.approx(0.75, abs=0.01), pytest.approx(0.1, abs=0.01)]
    assert torch.equal(together[1], masks(counts[1:2], [0.25], [2])[0])
    assert not torch.equal(together[1], masks(counts[1:2], [0.25], [4])[0])


def test_neighbouring_elements_are_independent() -> None:
    mask = masks([400_000], [0.5], [1])[0] - 0.5
    for lag in (1, 2, 3, 4, 5, 8):
        assert (mask[:-lag] * mask[lag:]).mean().abs() < 0.002


@pytest.mark.parametrize("sizes", [[10, 20, 30], [65_000] * 3, [200_000, 7, 200_000], [3, 65_536, 65_536]])
def test_pieces_are_fresh_and_repeatable(sizes: list[int]) -> None:
    def pieces() -> list[Tensor]:
        bits = Bits(CPU).restart(5)
        return [bits.take(size).clone() for size in sizes]

    first, second = pieces(), pieces()
    assert [len(piece) for piece in first] == sizes
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    shortest = min(sizes)
    assert len({tuple(piece[:shortest].tolist()) for piece in first}) == len(sizes)


@pytest.mark.parametrize("sizes", [[100, 30_000, 5, 60_000], [100, 70_000, 100], [65_536, 3]])
def test_piecewise_draws_equal_a_single_draw(sizes: list[int]) -> None:
    """Chunks of 65,536 values and, in their order, requests that are larger: each is one draw of the generator."""
    bits, generator = Bits(CPU).restart(5), torch.Generator().manual_seed(5)
    chunk, at = torch.empty(0, dtype=torch.int16), 0
    for size in sizes:
        whole = -(-size // 4) * 4
        fresh = whole > 65_536
        if fresh or at + whole > len(chunk):
            words = torch.empty(max(whole, 65_536) // 4, dtype=torch.int64)
            drawn = words.random_(-(2**63), None, generator=generator).view(torch.int16)
        if fresh:
            assert torch.equal(bits.take(size), drawn[:size])
            continue
        if at + whole > len(chunk):
            chunk, at = drawn, 0
        assert torch.equal(bits.take(size), chunk[at : at + size])
        at += whole


def test_restart_is_independent_of_the_last_step() -> None:
    bits = Bits(CPU).restart(1)
    before = bits.take(100).clone()
    bits.take(5000)
    assert torch.equal(bits.restart(1).take(100), before)
    assert not torch.equal(bits.restart(2).take(100), before)
