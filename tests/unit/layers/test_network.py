"""Networks in a pack: train as in plain torch, keep their own statistics, leave frozen parts unchanged."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lungtune.core.params import param
from lungtune.engine import optim
from lungtune.engine.pack import Pack
from lungtune.inputs.batch import Batch
from lungtune.layers import network
from lungtune.layers.layout import BatchLayout
from toy import CLASSES, IMAGES, LABELS, PART, Base, N, Toy, predicted
from toy import Params as ToyParams

HORIZON = 5 * N


class Net(nn.Module):
    """A stem that stays frozen, a trained body with batch norm, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@dataclass(frozen=True)
class Params(ToyParams):
    """Toy's, and what a network has."""

    drop: float = param(0.0)
    whole: bool = param(False)
    decay: float = param(1.0)


class Family(Toy):
    """All of ``Net`` trains, or its body and head only."""

    Params = Params

    def backbone(self, base: Any, classes: Sequence[str]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Net().eval()

    def lora_targets(self, model: nn.Module, params: Params) -> list[Any]:
        return []

    def trainable_parameters(
        self, model: nn.Module, params: Params, classes: Sequence[str], generator: torch.Generator
    ) -> Any:
        own = network.parameters(model, trained(params))
        network.redraw(own, ["head"], generator)
        return own

    def statistics(self, model: nn.Module, params: Params) -> Sequence[str]:
        return network.statistics(model, trained(params))

    def lr_multipliers(self, model: nn.Module, params: Params) -> Mapping[str, float]:
        return {"body.0.weight": params.decay} if params.decay != 1 else {}

    def outputs(self, model: nn.Module, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        def call(params: Params, rows: Tensor) -> dict[str, Tensor]:
            model.body[3].p = params.drop
            return {"logits": model(rows)}

        return network.run(model, batch["image"], layout, call)


def trained(params: Params) -> Any:
    return lambda name: params.whole or not name.startswith("stem.")


def pack(capacity: int = 4) -> Pack:
    return Pack(Family(), Base(), CLASSES, PART, capacity=capacity)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_a_slot_trains_as_torch_does(whole: bool, decay: float) -> None:
    """The oracle: the same module, cross-entropy and ``torch.optim.AdamW`` with its own rate of one layer."""
    params = Params(whole=whole, decay=decay, weight_decay=0.1, warmup=0.0, batch_size=5)
    ours = pack()
    slot = ours.join(params, seed=7, horizon=HORIZON)
    oracle = Net()
    oracle.load_state_dict(Family().backbone(None, CLASSES).state_dict())
    start = ours.adapter(slot)
    oracle.load_state_dict({**oracle.state_dict(), **start})
    oracle.train()
    oracle.stem.train(whole)
    oracle.stem.requires_grad_(whole)
    slow = [oracle.body[0].weight]
    rest = [p for p in oracle.parameters() if p.requires_grad and p is not slow[0]]
    adamw = torch.optim.AdamW([{"params": slow}, {"params": rest}], weight_decay=0.1)
    oracle.body[3].p = 0.0
    images, labels = torch.from_numpy(IMAGES).unsqueeze(1).float() / 255, torch.from_numpy(LABELS)
    for step in range(6):
        chosen = ours._trials[slot].batch()
        rate = optim.rate(step, peak=params.lr, total=HORIZON // 5, warmup=0.0)
        adamw.param_groups[0]["lr"], adamw.param_groups[1]["lr"] = rate * decay, rate
        loss = nn.functional.cross_entropy(oracle(images[chosen]), labels[chosen])
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        assert ours.step()[slot] == pytest.approx(loss.item(), rel=1e-4)
    for name, tensor in ours.adapter(slot).items():
        torch.testing.assert_close(tensor, oracle.state_dict()[name], rtol=1e-3, atol=1e-5)
    oracle.eval()
    torch.testing.assert_close(predicted(ours, slot), oracle(images).softmax(1), rtol=1e-3, atol=1e-4)


def test_slots_share_no_parameters_statistics_or_randomness() -> None:
    settings = [Params(), Params(drop=0.5, batch_size=6), Params(whole=True, drop=0.3, lr=3e-3), Params(decay=0.1)]
    together, alone = pack(), []
    slots = [together.join(p, seed=i, horizon=HORIZON) for i, p in enumerate(settings)]
    got = [together.step() for _ in range(5)]
    for i, params in enumerate(settings):
        single = pack(1)
        single.join(params, seed=i, horizon=HORIZON)
        alone.append([single.step()[0] for _ in range(5)])
        assert [g[slots[i]] for g in got] == pytest.approx(alone[i], rel=1e-4)
        mine, theirs = together.adapter(slots[i]), single.adapter(0)
        for name, tensor in theirs.items():
            torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-5)


def test_shared_network_is_unchanged() -> None:
    shared = pack()
    before = {name: tensor.clone() for name, tensor in shared.model.state_dict().items()}
    state = torch.random.get_rng_state()
    for i, params in enumerate((Params(drop=0.5), Params(whole=True))):
        shared.join(params, seed=i, horizon=HORIZON)
    shared.step()
    shared.predict(PART)
    assert all(torch.equal(before[name], tensor) for name, tensor in shared.model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_statistics_go_through_a_checkpoint() -> None:
    params = Params(whole=True, drop=0.2)
    whole, cut, again = pack(1), pack(1), pack(1)
    for p in (whole, cut):
        p.join(params, seed=3, horizon=HORIZON)
        p.step()
    again.join(params, seed=3, horizon=HORIZON, state=cut.state(0))
    assert again.step() == whole.step()
    assert all(torch.equal(tensor, again.state(0)[name]) for name, tensor in whole.state(0).items())
    kept = {name for name in whole.state(0) if name.startswith("statistics.")}
    parts = ("running_mean", "running_var", "num_batches_tracked")
    assert kept == {f"statistics.{layer}.1.{part}" for layer in ("stem", "body") for part in parts}


def test_layers_keep_their_share_of_the_rate_of_stochastic_depth() -> None:
    class DropPath(nn.Module):
        def __init__(self, drop_prob: float) -> None:
            super().__init__()
            self.drop_prob = drop_prob

    layers = nn.Sequential(DropPath(0.05), nn.Identity(), DropPath(0.1))
    network.DropPath(layers).set(0.4)
    assert [layers[0].drop_prob, layers[2].drop_prob] == pytest.approx([0.2, 0.4])


def test_a_frozen_part_stays_in_eval_mode() -> None:
    trains = pack(1)
    trains.join(replace(Params(), drop=0.5), seed=0, horizon=HORIZON)
    trains.step()
    assert not trains.model.stem[1].training
    assert trains.model.body[1].training
    assert trains.model.body[3].training


def test_network_is_freed_with_its_pack() -> None:
    """A cache per backbone must not keep it in memory: a search over several bases opens many."""
    built = pack(1)
    built.join(Params(), seed=0, horizon=HORIZON)
    built.step()
    left = weakref.ref(built.model)
    del built
    gc.collect()
    assert left() is None


def test_failed_step_changes_no_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory runs out after the forward pass: the step is repeated, and batch norm counts it once."""
    left = []
    for fails in (False, True):
        built, calls = pack(2), []
        slots = [built.join(Params(whole=True), seed=i, horizon=HORIZON) for i in range(2)]

        def loss(
            outputs: Any, batch: Batch, layout: BatchLayout, calls: list[int] = calls, fails: bool = fails
        ) -> Tensor:
            calls.append(len(layout))
            if fails and len(calls) == 1:
                raise MemoryError
            return Family.tasks[0].loss(outputs, batch, layout)

        monkeypatch.setattr(built.family, "loss", loss)
        built.step()
        assert calls == ([2, 1, 1] if fails else [2])
        left.append([built.state(slot) for slot in slots])
    for whole, again in zip(*left, strict=True):
        for name, tensor in whole.items():
            torch.testing.assert_close(again[name], tensor, rtol=1e-4, atol=1e-6)


def test_buffers_that_no_state_dict_holds_are_no_statistics() -> None:
    """A filter's taps belong to the architecture: an export would not find them."""
    net = Net()
    net.body.register_buffer("taps", torch.ones(3), persistent=False)
    assert "body.taps" not in network.statistics(net, lambda name: True)
    assert "body.1.running_mean" in network.statistics(net, lambda name: True)


def test_training_starts_at_pretrained_weights_in_bf16() -> None:
    class Alone(Family):
        packs = False

    built = Pack(Alone(), Base(), CLASSES, PART, capacity=1, precision="bf16")
    held = built.model.head.weight
    expected = Family().backbone(None, CLASSES).head.weight
    assert torch.equal(held, expected), "a Linear that a trial starts from must not be rounded"


def test_parts_of_a_batch_have_own_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that passes in parts, for want of memory, must not drop the same units in each."""
    built = pack(1)
    built.join(Params(drop=0.5, batch_size=4), seed=0, horizon=HORIZON)
    built.rows = 2
    drop, seen = nn.functional.dropout, []

    def dropout(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        kept = drop(torch.ones_like(x), p, training, inplace)
        seen.append(kept)
        return x * kept

    monkeypatch.setattr(nn.functional, "dropout", dropout)
    built.step()
    assert len(seen) == 2
    assert not torch.equal(*seen)
