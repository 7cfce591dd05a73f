"""Measured number of slots, within memory and the cap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lungtune.engine import capacity
from lungtune.engine.pack import Pack
from lungtune.inputs.batch import Batch
from lungtune.layers.layout import BatchLayout
from toy import CLASSES, PART, Base, Params, Toy


class Timed(Toy):
    """A step of K slots takes ``seconds(K)``; more than ``most`` do not fit into memory."""

    clock = 0.0

    def __init__(self, seconds: Any, most: int = 99) -> None:
        self.seconds, self.most = seconds, most

    def outputs(self, model: nn.Module, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        """Run the net, slowly."""
        if len(layout) > self.most:
            raise torch.OutOfMemoryError("injected")
        Timed.clock += self.seconds(len(layout))
        return {"logits": model(batch["image"])}


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "_now", lambda cuda: Timed.clock)


def measured(seconds: Any, most: int = 99, cap: int = 8) -> capacity.Capacity:
    pack = Pack(Timed(seconds, most), Base(), CLASSES, PART, capacity=cap)
    result = capacity.measure(pack, [Params()], cap)
    assert pack.slots == ()
    assert pack.rows is None
    return result


def test_cap_is_chosen_when_step_time_is_constant() -> None:
    result = measured(lambda slots: 0.03)
    assert result.slots == 8
    assert [rate.slots for rate in result.rates] == [1, 2, 4, 8]
    assert "at most 8 are allowed" in result.why


def test_pack_of_one_when_packing_does_not_pay() -> None:
    result = measured(lambda slots: 0.03 * slots)
    assert result.slots == 1
    assert [rate.slots for rate in result.rates] == [1, 2, 4]
    assert "gain nothing more" in result.why


def test_a_pack_that_does_not_fit_into_memory_is_not_taken() -> None:
    result = measured(lambda slots: 0.03, most=2)
    assert result.slots == 2
    assert "4 do not fit into memory" in result.why


def test_one_trial_is_trained_even_if_it_does_not_fit_at_once() -> None:
    assert measured(lambda slots: 0.03, most=0).slots == 1


def test_the_cap_is_tried_itself_when_it_is_no_power_of_two() -> None:
    assert measured(lambda slots: 0.03, cap=6).slots == 6


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(slots: int) -> float:
        raise ValueError("a mistake in the model's code")

    with pytest.raises(ValueError, match="mistake"):
        measured(broken)
