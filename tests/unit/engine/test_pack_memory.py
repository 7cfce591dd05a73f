"""Pack with idle slots and out-of-memory steps: no trial's result changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lungtune.engine.pack import Pack
from lungtune.inputs.batch import Batch
from lungtune.layers.layout import BatchLayout
from toy import CLASSES, HARD, PART, Base, N, Params, Toy, equal, pack, predicted, run


class Scarce(Toy):
    """Out of memory above so many rows at a time."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.seen: list[int] = []

    def outputs(self, model: nn.Module, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        """Run the net if it fits."""
        if batch.size > self.rows:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        self.seen.append(batch.size)
        return {"logits": model(batch["image"])}


def scarce(rows: int) -> tuple[Pack, Scarce]:
    family = Scarce(rows)
    return Pack(family, Base(), CLASSES, PART, capacity=4), family


def test_idle_slots_are_unchanged_and_resume_exactly() -> None:
    alone, together = pack(), pack()
    slot = alone.join(HARD, seed=1, horizon=5 * N)
    others = [together.join(Params(batch_size=b, rank=b), seed=b, horizon=5 * N) for b in (3, 5, 7)]
    mine = together.join(HARD, seed=1, horizon=5 * N)
    for turn in range(6):
        before = together.state(mine)
        together.step([others[turn % 3], others[(turn + 1) % 3]])
        assert equal(together.state(mine), before)
        together.step({mine, others[0]})
        alone.step()
    assert together.samples(mine) == alone.samples(slot) == 30
    for name, tensor in alone.state(slot).items():
        torch.testing.assert_close(together.state(mine)[name], tensor, rtol=1e-4, atol=1e-6)


def test_out_of_memory_steps_slots_in_turn_with_same_result() -> None:
    roomy, (tight, family) = pack(), scarce(rows=10)
    settings = [HARD, Params(batch_size=4, dropout=0.2), Params(batch_size=6), Params(batch_size=2, rank=8)]
    slots = [[p.join(s, seed=i, horizon=5 * N) for i, s in enumerate(settings)] for p in (roomy, tight)]
    run(roomy, 4)
    assert all(set(losses) == set(slots[1]) for losses in run(tight, 4))
    assert tight.rows == 8
    assert max(family.seen) <= 8
    for a, b in zip(*slots, strict=True):
        for name, tensor in roomy.state(a).items():
            torch.testing.assert_close(tight.state(b)[name], tensor, rtol=1e-4, atol=1e-6)


def test_out_of_memory_batch_is_accumulated_in_parts() -> None:
    roomy, (tight, family) = pack(), scarce(rows=3)
    settings = Params(batch_size=8, class_weighting="balanced", augmentation=2)
    a, b = (p.join(settings, seed=3, horizon=5 * N) for p in (roomy, tight))
    expected, result = run(roomy, 4), run(tight, 4)
    assert tight.rows == 2
    assert set(family.seen) == {2}
    for x, y in zip(expected, result, strict=True):
        assert x[a] == pytest.approx(y[b], rel=1e-5)
    assert tight.samples(b) == 32
    for name, tensor in roomy.state(a).items():
        torch.testing.assert_close(tight.state(b)[name], tensor, rtol=1e-3, atol=1e-5)


def test_out_of_memory_validation_uses_smaller_batches() -> None:
    roomy, (tight, family) = pack(), scarce(rows=6)
    a, b = (p.join(Params(), seed=3, horizon=5 * N) for p in (roomy, tight))
    torch.testing.assert_close(predicted(tight, b), predicted(roomy, a))
    assert max(family.seen) <= 6


def test_single_row_out_of_memory_and_other_errors_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    tight, family = scarce(rows=0)
    tight.join(Params(batch_size=4), seed=0, horizon=N)
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        tight.step()

    def broken(*args: Any) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(family, "outputs", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        tight.step()
