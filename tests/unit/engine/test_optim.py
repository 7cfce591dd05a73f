"""Stacked optimisers and schedules equal torch's for every slot, alone and mixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import lr_scheduler as torch_schedules

from lungtune.engine.optim import OPTIMIZERS, Update, adamw, rate
from lungtune.engine.parameter_stack import ParameterStack
from lungtune.engine.trial_state import TrialState
from toy import REAL, Params

CLOSE = {"atol": 1e-13, "rtol": 1e-12}
ORACLES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
SETTINGS = [
    ("adamw", 1e-2, 0.1, 0.0),
    ("adamw", 3e-3, 0.0, 0.0),
    ("adamw", 1e-1, 0.5, 0.0),
    ("adam", 1e-2, 0.1, 0.0),
    ("adam", 3e-3, 0.0, 0.0),
    ("sgd", 1e-3, 0.1, 0.9),
    ("sgd", 1e-2, 0.0, 0.5),
    ("sgd", 1e-3, 0.3, 0.0),
]


@pytest.fixture
def double() -> Iterator[None]:
    """New tensors have double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def oracle(kind: str, parameter: Tensor, lr: float, decay: float, momentum: float) -> torch.optim.Optimizer:
    more = {"momentum": momentum} if kind == "sgd" else {}
    return ORACLES[kind]([parameter], lr=lr, weight_decay=decay, **more)


def gradient(rows: int) -> Tensor:
    return torch.randn(rows, 40) * 10.0 ** torch.randint(-4, 3, (rows, 1))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("double")
def test_each_slot_steps_as_torchs_optimiser(kind: str) -> None:
    torch.manual_seed(0)
    settings = [rest for name, *rest in SETTINGS if name == kind]
    start = torch.randn(len(settings), 40)
    values, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    alone = [torch.nn.Parameter(row.clone()) for row in start]
    oracles = [oracle(kind, p, *rest) for p, rest in zip(alone, settings, strict=True)]
    for step in range(1, 26):
        grads = gradient(len(settings))
        for row, parameter, each in zip(grads, alone, oracles, strict=True):
            parameter.grad = row.clone()
            each.step()
        updates = [Update(lr, decay, step, kind, momentum) for lr, decay, momentum in settings]
        OPTIMIZERS[kind](values, mean, square, grads, updates)
    torch.testing.assert_close(values, torch.stack([p.data for p in alone]), **CLOSE)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.usefixtures("double")
def test_scales_are_factors_on_each_learning_rate(kind: str) -> None:
    torch.manual_seed(0)
    scales = torch.rand(1, 40)
    start = torch.randn(1, 40)
    values, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    alone = [torch.nn.Parameter(value.clone()) for value in start[0]]
    oracles = [oracle(kind, p, 1e-2 * float(s), 0.1, 0.9) for p, s in zip(alone, scales[0], strict=True)]
    for step in range(1, 21):
        grads = gradient(1)
        for value, parameter, each in zip(grads[0], alone, oracles, strict=True):
            parameter.grad = value.clone()
            each.step()
        OPTIMIZERS[kind](values, mean, square, grads, [Update(1e-2, 0.1, step, kind, 0.9)], scales)
    torch.testing.assert_close(values[0], torch.stack([p.data for p in alone]), **CLOSE)


def trial(kind: str, lr: float, decay: float, momentum: float, **more: Any) -> TrialState:
    """A trial of 30 steps."""
    params = Params(optimizer=kind, lr=lr, weight_decay=decay, momentum=momentum, batch_size=4, **more)
    return TrialState(params, 1, 120, {}, REAL, torch.device("cpu"))


STEPPED = {"warmup": 0.0, "lr_schedule": "step", "lr_step": 5 / 30, "lr_gamma": 0.5}
RISING = {"warmup": 5 / 30, "warmup_start": 0.1}


@pytest.mark.usefixtures("double")
def test_a_mixed_pack_steps_each_trial_as_torch() -> None:
    """Eight trials, each with its own optimiser and schedule; slots are stepped in changing groups."""
    torch.manual_seed(0)
    more = [{}, STEPPED, RISING, {**RISING, "lr_schedule": "constant"}, STEPPED, RISING, STEPPED, {"lr_cosine": 0.5}]
    stack = ParameterStack({"a": (5,), "b": (3, 7)}, len(SETTINGS), torch.device("cpu"))
    trials, alone, oracles = [], [], []
    for slot, (setting, options) in enumerate(zip(SETTINGS, more, strict=True)):
        start = {"a": torch.randn(5), "b": torch.randn(3, 7)}
        stack.write(slot, {name: torch.stack([v, *torch.zeros(2, *v.shape)]) for name, v in start.items()})
        trials.append(trial(*setting, **options))
        alone.append({name: torch.nn.Parameter(v.clone()) for name, v in start.items()})
        kind, lr, decay, momentum = setting
        momentums = {"momentum": momentum} if kind == "sgd" else {}
        oracles.append(ORACLES[kind](alone[slot].values(), lr=lr, weight_decay=decay, **momentums))
    for step in range(24):
        chosen = [slot for slot in range(len(SETTINGS)) if (step + slot) % 5]
        stack.grads.normal_()
        updates = [trials[slot].advance() for slot in chosen]
        for slot, update in zip(chosen, updates, strict=True):
            for name, parameter in alone[slot].items():
                parameter.grad = stack._view(stack.grads, name)[slot].clone()
            oracles[slot].param_groups[0]["lr"] = update.rate
            oracles[slot].step()
        stack.step(chosen, updates)
    for slot, parameters in enumerate(alone):
        compared = stack.read(slot, {name: tuple(p.shape) for name, p in parameters.items()})
        for name, parameter in parameters.items():
            torch.testing.assert_close(compared[name][0], parameter.data, **CLOSE)


def test_slots_of_different_age_keep_their_own_bias_correction() -> None:
    grads = torch.ones(2, 8)
    values, mean, square = torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
    adamw(values, mean, square, grads, [Update(0.1, 0.0, 1), Update(0.1, 0.0, 1000)])
    torch.testing.assert_close(values[0], torch.full((8,), -0.1))
    assert values[1].abs().max() < 0.4  # uncorrected: 0.1 * 0.1 / sqrt(0.001)
    assert values[1, 0] != values[0, 0]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_broken_gradient_stays_in_its_slot(kind: str) -> None:
    grads = torch.ones(2, 8)
    grads[0] = torch.nan
    values, mean, square = torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(2, 8)
    OPTIMIZERS[kind](values, mean, square, grads, [Update(0.1, 0.0, 1)] * 2)
    assert values[0].isnan().all()
    torch.testing.assert_close(values[1], torch.full((8,), -0.1))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_padding_stays_zero(kind: str) -> None:
    values, mean, square, grads = (torch.zeros(1, 8) for _ in range(4))
    OPTIMIZERS[kind](values, mean, square, grads, [Update(0.1, 0.5, 1, kind, 0.9)])
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
@pytest.mark.parametrize("schedule", ["cosine", "constant", "step"])
def test_schedule_of_the_shortest_horizons(total: int, warmup: float, schedule: str) -> None:
    assert rate(0, peak=1.0, total=total, warmup=warmup, schedule=schedule) > 0.0


def chained(*parts: Callable[[torch.optim.Optimizer], Any], at: int) -> Callable[[torch.optim.Optimizer], Any]:
    return lambda optimizer: torch_schedules.SequentialLR(optimizer, [part(optimizer) for part in parts], [at])


def rising(optimizer: torch.optim.Optimizer) -> Any:
    return torch_schedules.LinearLR(optimizer, start_factor=0.1, total_iters=5)


@pytest.mark.parametrize(
    ("total", "ours", "theirs"),
    [
        (20, {"warmup": 0.0, "schedule": "step", "every": 0.25, "gamma": 0.1},
         lambda o: torch_schedules.StepLR(o, 5, 0.1)),
        (30, {"warmup": 0.0, "schedule": "step", "every": 0.1, "gamma": 0.5},
         lambda o: torch_schedules.StepLR(o, 3, 0.5)),
        (30, {"warmup": 5 / 30, "start": 0.1, "schedule": "step", "every": 0.2, "gamma": 0.3},
         chained(rising, lambda o: torch_schedules.StepLR(o, 6, 0.3), at=5)),
        (20, {"warmup": 0.25, "start": 0.1},
         chained(rising, lambda o: torch_schedules.CosineAnnealingLR(o, T_max=15), at=5)),
        (30, {"warmup": 5 / 30, "start": 0.1, "cosine": 20 / 30},
         chained(rising, lambda o: torch_schedules.CosineAnnealingLR(o, T_max=20), at=5)),
        (30, {"warmup": 5 / 30, "start": 0.1, "schedule": "constant"}, rising),
        (25, {"warmup": 0.0}, lambda o: torch_schedules.CosineAnnealingLR(o, T_max=25)),
        (25, {"warmup": 0.0, "schedule": "constant"}, lambda o: torch_schedules.ConstantLR(o, factor=1.0)),
    ],
    ids=["step", "step-of-3", "warmup-step", "warmup-cosine", "warmup-cosine-short", "warmup", "cosine", "constant"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch's own SequentialLR uses it
def test_schedules_equal_torchs(total: int, ours: dict[str, Any], theirs: Callable[..., Any]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = theirs(optimizer)
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert rate(step, peak=0.3, total=total, **ours) == pytest.approx(expected, rel=1e-9, abs=1e-15), step
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("passes", [10, 20, 30])
def test_step_schedule_decays_once_per_share(passes: int) -> None:
    for each in range(10, 400, 7):
        first = range(0, each * passes, each)
        step = {
            "peak": 1.0,
            "total": each * passes,
            "warmup": 0.0,
            "schedule": "step",
            "every": 1 / passes,
            "gamma": 0.5,
        }
        assert [rate(number, **step) for number in first] == [0.5**k for k in range(passes)]
        assert [rate(number - 1, **step) for number in first[1:]] == [0.5**k for k in range(passes - 1)]
