"""Features on a CPU: how many cases pass the model together, on which threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lungtune.core import environment
from lungtune.core.io import Lock
from lungtune.inputs import computing


@pytest.mark.parametrize(
    ("size", "device", "count"),
    [
        (64 * 64, "cpu", 256),
        (128 * 128, "cpu", 256),
        (224 * 224, "cpu", 5),
        (3 * 224 * 224, "cpu", 4),
        (768 * 768, "cpu", 4),
        (224 * 224, "cuda", 167),
        (768 * 768, "cuda", 14),
        (4096 * 4096, "cuda", 1),
    ],
)
def test_large_images_pass_a_cpu_few_at_a_time(size: int, device: str, count: int) -> None:
    assert computing.at_once(size, torch.device(device)) == count


@pytest.mark.parametrize(
    ("paces", "usual", "chosen", "timed"),
    [
        ({1: 56, 4: 94, 16: 93, 64: 64}, 64, 4, [1, 4, 16, 64]),
        ({1: 100, 4: 190, 16: 310, 64: 350}, 64, 64, [1, 4, 16, 64]),
        ({1: 100, 4: 190, 16: 330, 64: 350}, 16, 16, [1, 4, 16, 64]),  # noise does not change the usual
        ({1: 43, 4: 53, 5: 52, 16: 36}, 5, 5, [1, 4, 5, 16]),  # past the best: larger ones are not tried
        ({1: 2.0, 4: 2.0, 16: 9.0, 64: 9.0}, 16, 1, [1]),  # nor those that take long
    ],
)
def test_the_fastest_batch_is_found_in_simulated_times(
    paces: dict[int, float], usual: int, chosen: int, timed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, called = [0.0], []

    def call(size: int) -> None:
        now[0] += size / paces[size] + (0 if size in called else 0.03)  # kernels are made in the first call
        called.append(size)

    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    assert computing.fastest(call, usual) == chosen
    assert list(dict.fromkeys(called)) == timed


def test_one_torch_thread_a_worker_and_caller_count_restored(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    with computing.workers(tmp_path / "cores.lock") as workers:
        threads = workers.ahead(lambda _: (torch.get_num_threads(), threading.get_ident()), range(20), 4)
        counts, names = zip(*(found for _, found in threads), strict=True)
        assert workers.count == environment.cores()
    assert set(counts) == {1}
    assert threading.get_ident() not in names
    assert torch.get_num_threads() == 2


def test_results_come_in_order_and_few_are_ahead(tmp_path: Path) -> None:
    begun: list[int] = []

    def slow(item: int) -> int:
        time.sleep(0.01 * (item % 3))
        return item * item

    def items() -> Iterator[int]:
        for item in range(12):
            begun.append(item)
            yield item

    with computing.workers(tmp_path / "cores.lock") as workers:
        for item, result in workers.ahead(slow, items(), 3):
            assert result == item * item
            assert len(begun) <= item + 4
    assert begun == list(range(12))


def test_an_error_in_a_worker_is_raised_and_threads_are_restored(tmp_path: Path) -> None:
    torch.set_num_threads(2)

    def fail(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"), computing.workers(tmp_path / "cores.lock") as workers:
        list(workers.ahead(fail, range(50), 2))
    assert torch.get_num_threads() == 2
    assert Lock(tmp_path / "cores.lock").try_acquire()


def test_a_second_process_has_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 5)
    with computing.workers(tmp_path / "l") as first, computing.workers(tmp_path / "l") as second:
        assert (first.count, second.count) == (5, 1)
    with computing.workers(tmp_path / "l") as third:
        assert third.count == 5
