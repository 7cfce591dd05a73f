"""Slot-aware LoRA equals PEFT's LoRA for every slot, whatever its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtune.core.family import LoraTarget
from lungtune.errors import SpaceError
from lungtune.layers import lora
from lungtune.layers.dropout import Bits
from lungtune.layers.layout import BatchLayout, LayoutContext


class Net(nn.Module):
    """Two Linears, as plain as can be."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


@dataclass
class Trial:
    """One slot: rows, rank, alpha, learning rate, dropout."""

    rows: int
    rank: int
    alpha: float
    lr: float
    dropout: float = 0.0


TRIALS = [Trial(3, 4, 8.0, 1e-2), Trial(3, 2, 32.0, 3e-3), Trial(5, 8, 4.0, 3e-2)]


def fresh_net() -> Net:
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def layout(trials: list[Trial], context: LayoutContext, *, training: bool = False, seed: int = 0) -> BatchLayout:
    n = len(trials)
    bits = tuple(Bits(torch.device("cpu")).restart(seed + i) for i in range(n))
    return BatchLayout(tuple(range(n)), tuple(t.rows for t in trials), (None,) * n, bits, context, training, n)


def start_weights(trial: Trial, linear: nn.Linear) -> tuple[Tensor, Tensor]:
    """B is not zero here, so that a wrong scale or a doubled update shows in the first forward."""
    a, b = lora.initial(linear, trial.rank, torch.Generator().manual_seed(trial.rank))
    return a, torch.randn(b.shape, generator=torch.Generator().manual_seed(trial.rank)) * 0.1


def packed(trials: list[Trial], context: LayoutContext) -> tuple[Net, dict[str, nn.Parameter]]:
    net, stacked = fresh_net(), {}
    top = max(t.rank for t in trials)
    for name in ("first", "second"):
        linear = net.get_submodule(name)
        a, b = (
            torch.zeros(len(trials), top, linear.in_features),
            torch.zeros(len(trials), linear.out_features, top),
        )
        for i, trial in enumerate(trials):
            a[i, : trial.rank], b[i, :, : trial.rank] = start_weights(trial, linear)
        stacked[f"{name}.A"], stacked[f"{name}.B"] = nn.Parameter(a), nn.Parameter(b)
        adapters = [lora.Adapter(t.rank, t.alpha / t.rank, t.dropout) for t in trials]
        lora.attach(net, name, context).bind(stacked[f"{name}.A"], stacked[f"{name}.B"], adapters)
    return net, stacked


def with_peft(trial: Trial) -> nn.Module:
    config = peft.LoraConfig(
        r=trial.rank, lora_alpha=trial.alpha, lora_dropout=trial.dropout, target_modules=["first", "second"]
    )
    model = peft.get_peft_model(fresh_net(), config)
    for name in ("first", "second"):
        layer = model.base_model.model.get_submodule(name)
        a, b = start_weights(trial, layer.base_layer)
        layer.lora_A.default.weight.data, layer.lora_B.default.weight.data = a, b
    return model


def test_forward_gradients_and_training_equal_pefts() -> None:
    context = LayoutContext()
    net, stacked = packed(TRIALS, context)
    oracles = [with_peft(t) for t in TRIALS]
    groups = [
        torch.optim.AdamW([p for p in o.parameters() if p.requires_grad], lr=t.lr, weight_decay=0.1)
        for o, t in zip(oracles, TRIALS, strict=True)
    ]
    # torch's AdamW over slot i of the stack is AdamW with that slot's own rate: moments are elementwise.
    ours = [torch.optim.AdamW(stacked.values(), lr=t.lr, weight_decay=0.1) for t in TRIALS]
    slots = layout(TRIALS, context)
    for step in range(5):
        torch.manual_seed(step)
        x = torch.randn(sum(t.rows for t in TRIALS), 7, 12)
        y = torch.randn(len(x), 7, 6)
        with context.using(slots):
            out = net(x)
        grads = torch.autograd.grad((out * y).sum(), list(stacked.values()))
        for i, (oracle, rows) in enumerate(zip(oracles, slots.rows, strict=True)):
            expected = oracle(x[rows])
            torch.testing.assert_close(out[rows], expected, atol=1e-5, rtol=1e-5)
            groups[i].zero_grad()
            (expected * y[rows]).sum().backward()
            rank = TRIALS[i].rank
            for (key, _), grad in zip(stacked.items(), grads, strict=True):
                name, part = key.split(".")
                layer = oracle.base_model.model.get_submodule(name)
                if part == "A":
                    wanted = layer.lora_A.default.weight.grad
                    assert not grad[i, rank:].any()  # padding gets no gradient
                    torch.testing.assert_close(grad[i, :rank], wanted, atol=1e-4, rtol=1e-4)
                else:
                    wanted = layer.lora_B.default.weight.grad
                    assert not grad[i, :, rank:].any()
                    torch.testing.assert_close(grad[i, :, :rank], wanted, atol=1e-4, rtol=1e-4)
            groups[i].step()
        before = {k: p.detach().clone() for k, p in stacked.items()}
        after = {k: torch.empty_like(p) for k, p in before.items()}
        for i, optimiser in enumerate(ours):
            for (key, parameter), grad in zip(stacked.items(), grads, strict=True):
                parameter.data.copy_(before[key])
                parameter.grad = grad.clone()
            optimiser.step()
            for key, parameter in stacked.items():
                after[key][i] = parameter.detach()[i]
        for key, parameter in stacked.items():
            parameter.data.copy_(after[key])
    for i, (trial, oracle) in enumerate(zip(TRIALS, oracles, strict=True)):
        merged = oracle.merge_and_unload()
        for name in ("first", "second"):
            a, b = stacked[f"{name}.A"][i], stacked[f"{name}.B"][i]
            weight = net.get_submodule(name).linear.weight + trial.alpha / trial.rank * b @ a
            torch.testing.assert_close(weight, merged.get_submodule(name).weight, atol=1e-4, rtol=1e-4)


def test_fresh_weights_are_drawn_as_peft_draws_them() -> None:
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["first"])
    layer = peft.get_peft_model(Net(), config).base_model.model.first
    peft_a = layer.lora_A.default.weight
    a, b = lora.initial(layer.base_layer, 4096, torch.Generator().manual_seed(1))
    bound = 12**-0.5
    assert peft_a.abs().max() <= bound
    assert a.abs().max() <= bound
    assert a.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not b.any()
    assert not layer.lora_B.default.weight.any()


def test_dropout_drops_the_adapters_input_and_rescales() -> None:
    """PEFT's masks differ in their random numbers; so compare the mean over many, and what is deterministic."""
    context = LayoutContext()
    trial = Trial(1, 4, 8.0, 0.0, dropout=0.4)
    net, _ = packed([trial], context)
    x = torch.randn(1, 1, 12)
    with torch.no_grad():
        with context.using(layout([trial], context)):
            expected = net.first(x)
        outs = []
        for seed in range(3000):
            with context.using(layout([trial], context, training=True, seed=seed)):
                outs.append(net.first(x))
    outs = torch.stack(outs)
    assert outs.std(0).min() > 0.01
    error = outs.std(0) / 3000**0.5
    assert ((outs.mean(0) - expected).abs() < 5 * error).all()


def test_a_slot_that_does_not_target_a_layer_is_untouched() -> None:
    context = LayoutContext()
    trials = TRIALS[:2]
    net, stacked = packed(trials, context)
    layer = net.first
    with torch.no_grad():
        stacked["first.A"][1] = 0.0
        stacked["first.B"][1] = 0.0
    layer.bind(stacked["first.A"], stacked["first.B"], [lora.Adapter(4, 2.0, 0.5), None])
    x = torch.randn(6, 3, 12)
    with context.using(layout(trials, context, training=True)):
        out = layer(x)
    plain = layer.linear(x)
    torch.testing.assert_close(out[3:], plain[3:])
    assert (out[:3] - plain[:3]).abs().max() > 1e-3
    grads = torch.autograd.grad(out.square().sum(), (layer.lora_a, layer.lora_b))
    assert not grads[0][1].any()
    assert not grads[1][1].any()


def test_merged_weights_of_a_lone_slot_give_the_same() -> None:
    context = LayoutContext()
    net, _ = packed(TRIALS, context)
    x = torch.randn(11, 4, 12)
    slots = layout(TRIALS, context)
    with context.using(slots):
        together = net(x)
    for i, rows in enumerate(slots.rows):
        memo: dict = {}
        for part in x[rows].split(2):
            lone = BatchLayout((i,), (len(part),), (None,), (), context, training=False, whole=3, memo=memo)
            with context.using(lone):
                out = net(part)
            torch.testing.assert_close(out, together[rows][: len(part)], atol=1e-5, rtol=1e-5)
            break
        assert len(memo) == 2


def test_without_a_layout_adapters_are_off() -> None:
    net, _ = packed(TRIALS, LayoutContext())
    x = torch.randn(2, 12)
    torch.testing.assert_close(net(x), fresh_net()(x))


def test_nan_of_a_slot_stays_in_its_rows() -> None:
    context = LayoutContext()
    net, stacked = packed(TRIALS, context)
    slots = layout(TRIALS, context)
    x = torch.randn(11, 12)
    with torch.no_grad():
        stacked["first.A"][1] = torch.nan
    with context.using(slots):
        out = net(x)
    grads = torch.autograd.grad(out.sum(), list(stacked.values()))
    assert out[3:6].isnan().all()
    assert not out[:3].isnan().any()
    assert not out[6:].isnan().any()
    assert all(not g[0].isnan().any() and not g[2].isnan().any() for g in grads)


def test_attach_and_detach_restore_the_model() -> None:
    net = fresh_net()
    plain = net.first
    wrapped = lora.attach(net, "first", LayoutContext())
    assert lora.attach(net, "first", LayoutContext()) is wrapped
    assert lora.linears(net) == ["first", "second"]
    lora.detach(net, "first")
    lora.detach(net, "second")
    assert net.first is plain


def test_unmatched_pattern_lists_the_layers() -> None:
    with pytest.raises(SpaceError, match=r"LoRA target 'attn' must match .* Layers of this model: first, second"):
        lora.match(Net(), [LoraTarget("first", 1, 1.0, 0.0), LoraTarget("attn", 1, 1.0, 0.0)])


def test_a_pattern_must_match_the_whole_name() -> None:
    with pytest.raises(SpaceError, match="matches none"):
        lora.match(Net(), [LoraTarget("fir", 1, 1.0, 0.0)])


def test_two_patterns_for_one_layer_are_refused() -> None:
    with pytest.raises(SpaceError, match="'first' must be matched by one LoRA target"):
        lora.match(Net(), [LoraTarget("first", 1, 1.0, 0.0), LoraTarget("f.*", 1, 1.0, 0.0)])
