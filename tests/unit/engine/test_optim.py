"""Stacked AdamW is torch's AdamW for every slot; the schedule rises and falls as it says."""

from __future__ import annotations

import pytest
import torch

from lungtune.engine.optim import Update, adamw, rate


def test_each_slot_steps_as_torchs_adamw_does() -> None:
    torch.manual_seed(0)
    settings = [(1e-2, 0.1), (3e-3, 0.0), (1e-1, 0.5)]
    start = torch.randn(3, 40)
    values, mean, square = start.clone(), torch.zeros(3, 40), torch.zeros(3, 40)
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    oracles = [torch.optim.AdamW([p], lr=lr, weight_decay=wd) for p, (lr, wd) in zip(alone, settings, strict=True)]
    for step in range(1, 21):
        grads = torch.randn(3, 40) * 10.0 ** torch.randint(-4, 3, (3, 1))
        for i, (parameter, oracle) in enumerate(zip(alone, oracles, strict=True)):
            parameter.grad = grads[i].clone()
            oracle.step()
        adamw(values, mean, square, grads, [Update(lr, wd, step) for lr, wd in settings])
    torch.testing.assert_close(values, torch.stack([p.data for p in alone]), atol=1e-6, rtol=1e-6)


def test_slots_of_different_age_keep_their_own_bias_correction() -> None:
    grads = torch.ones(2, 8)
    values, mean, square = torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
    adamw(values, mean, square, grads, [Update(0.1, 0.0, 1), Update(0.1, 0.0, 1000)])
    torch.testing.assert_close(values[0], torch.full((8,), -0.1))
    assert values[1].abs().max() < 0.4  # uncorrected: 0.1 * 0.1 / sqrt(0.001)
    assert values[1, 0] != values[0, 0]


def test_a_broken_gradient_stays_in_its_slot() -> None:
    grads = torch.ones(2, 8)
    grads[0] = torch.nan
    values, mean, square = torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
    adamw(values, mean, square, grads, [Update(0.1, 0.0, 1)] * 2)
    assert values[0].isnan().all()
    torch.testing.assert_close(values[1], torch.full((8,), -0.1))


def test_padding_stays_zero() -> None:
    values, mean, square, grads = (torch.zeros(1, 8) for _ in range(4))
    adamw(values, mean, square, grads, [Update(0.1, 0.5, 1)])
    assert not values.any()


def test_schedule_warms_up_and_ends_at_zero() -> None:
    rates = [rate(step, peak=2.0, total=100, warmup=0.1) for step in range(102)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[10] == pytest.approx(2.0)
    assert rates[55] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[99] > 0.0
    assert rates[100:] == [0.0, 0.0]


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.9), (1, 0.0), (2, 0.9)])
def test_schedule_of_the_shortest_horizons(total: int, warmup: float) -> None:
    assert rate(0, peak=1.0, total=total, warmup=warmup) > 0.0
