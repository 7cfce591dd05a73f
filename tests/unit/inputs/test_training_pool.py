"""Training pool: exact counts, nested ratios, equal work, plain batches where nothing is mixed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lungtune.core.fields import IMAGE
from lungtune.core.params import param
from lungtune.core.resource import Fidelity
from lungtune.core.synthetic import Settings, extra
from lungtune.core.trial import Objective, Report
from lungtune.data.dataset import Dataset, Part
from lungtune.engine.session import Session
from lungtune.engine.trial_state import TrialState
from lungtune.errors import DataError
from lungtune.inputs.columns import Column
from lungtune.inputs.feature_cache import CachedFeatures
from lungtune.inputs.training_pool import TrainingPool
from lungtune.layers.layout import derive_seed
from lungtune.layers.losses import class_weights
from lungtune.models.params import Synthetic
from toy import CLASSES, IMAGES, LABELS, Base, N, Toy, equal, part
from toy import Params as Plain
from toy import pack as toy_pack

CPU = torch.device("cpu")
COUNTS = (9, 6, 5)
REAL = np.repeat([2, 0, 1], [COUNTS[2], COUNTS[0], COUNTS[1]])
HELD = 40
BANK = np.repeat([0, 1, 2], HELD)


@dataclass(frozen=True)
class Params(Synthetic, Plain):
    """The toy's, with synthetic images."""

    batch_size: int = param(4)


class Mixer(Toy):
    """The toy as a family that takes synthetic images."""

    Params = Params


def supply(bank: np.ndarray | None = BANK) -> TrainingPool:
    return TrainingPool(len(REAL), REAL, bank, CLASSES, CPU)


def pools(seed: int = 1, horizon: int = 200, **params: Any) -> list[tuple[int, Tensor]]:
    result = supply().phases(Params(**params), seed, horizon)
    return [(phase.first, phase.pool) for phase in result]


def drawn(steps: int, seed: int = 3, horizon: int = 200, **params: Any) -> Tensor:
    values = Params(**params)
    member = TrialState(values, seed, horizon, {}, supply().phases(values, seed, horizon), CPU)
    result = []
    for _ in range(steps):
        result.append(member.batch())
        member.advance()
    return torch.cat(result)


@pytest.mark.parametrize(
    "off", [{}, {"synthetic_ratio": 2.0, "synthetic_images": "none"}, {"synthetic_use": "pretrain"}]
)
def test_unmixed_pool_gives_the_same_batches_and_views(off: dict[str, Any]) -> None:
    orders = [torch.randperm(20, generator=torch.Generator().manual_seed(derive_seed(3, 0, turn))) for turn in range(3)]
    assert torch.equal(drawn(14, **off), torch.cat(orders)[:56])
    first = torch.randint(2**31, (20,), generator=torch.Generator().manual_seed(derive_seed(3, 4)))
    member = TrialState(Params(**off), 3, 200, {}, supply().phases(Params(**off), 3, 200), CPU)
    member.samples = 18
    chosen = torch.tensor([*orders[0][18:], *orders[1][:2]])
    assert torch.equal(member.views(3), (first[chosen] + torch.tensor([0, 0, 1, 1])) % 3)


def test_a_family_without_these_parameters_trains_on_real_images() -> None:
    (phase,) = supply().phases(Plain(), 1, 200)
    assert torch.equal(phase.pool, torch.arange(20))
    assert Settings.of(Plain()) == Settings()


def test_uniform_adds_equally_and_fill_rare_classes_first() -> None:
    assert extra(COUNTS, 0.5, "uniform") == (4, 3, 3)
    assert extra(COUNTS, 0.0, "fill") == (0, 0, 0)
    assert extra(COUNTS, 0.05, "fill") == (0, 0, 1)
    assert extra(COUNTS, 0.25, "fill") == (0, 2, 3)  # 9, 8, 8
    assert extra(COUNTS, 0.35, "fill") == (0, 3, 4)  # all as many as the largest
    assert extra(COUNTS, 0.5, "fill") == (1, 4, 5)
    assert extra(COUNTS, 1.0, "fill") == (5, 7, 8)
    assert extra((5, 5), 0.3, "fill") == extra((5, 5), 0.3, "uniform") == (2, 1)


@pytest.mark.parametrize("balance", ["uniform", "fill"])
def test_larger_ratios_hold_smaller_ones(balance: str) -> None:
    before: set[int] = set()
    for ratio in np.arange(0, 5.001, 0.05):
        result = extra(COUNTS, float(ratio), balance)
        assert sum(result) == round(ratio * 20)
        ((_, pool),) = pools(synthetic_ratio=float(ratio), synthetic_balance=balance)
        taken = set(pool[20:].tolist())
        assert len(taken) == sum(result)
        assert taken >= before
        before = taken


def test_a_mix_is_one_pool_shown_once_a_pass() -> None:
    ((first, pool),) = pools(synthetic_ratio=1.0)
    assert first == 0
    assert pool[:20].tolist() == list(range(20))
    assert pool[20:].tolist() == [*range(20, 27), *range(60, 67), *range(100, 106)]  # the bank's first of each class
    shown = drawn(20, synthetic_ratio=1.0)
    assert sorted(shown[:40].tolist()) == sorted(shown[40:].tolist()) == sorted(pool.tolist())
    assert not torch.equal(shown[:40], shown[40:])


def test_pretraining_is_first_for_its_share_of_the_horizon() -> None:
    (zero, alone), (begin, real) = pools(synthetic_ratio=3.0, synthetic_use="pretrain", horizon=200)
    assert (zero, begin) == (0, 150)
    assert len(alone) == 60
    assert alone.min() >= 20
    assert real.tolist() == list(range(20))
    shown = drawn(50, synthetic_ratio=3.0, synthetic_use="pretrain", batch_size=4)  # 150 is within a batch
    assert bool((shown[:150] >= 20).all())
    assert bool((shown[150:] < 20).all())
    assert Counter(shown[:120].tolist()) == Counter(alone.tolist() * 2)
    assert Counter(shown[150:190].tolist()) == Counter(real.tolist() * 2)


def test_duplicates_match_the_bank_class_by_class_and_are_even() -> None:
    for ratio in (0.3, 1.0, 2.6):
        for balance in ("uniform", "fill"):
            options = {"synthetic_ratio": ratio, "synthetic_balance": balance}
            ((_, own),) = pools(synthetic_images="duplicates", **options)
            ((_, bank),) = pools(**options)
            labels = torch.cat([torch.as_tensor(REAL), torch.as_tensor(BANK)])
            assert torch.equal(labels[own].bincount(), labels[bank].bincount())
            assert int(own.max()) < 20
            for label in range(3):
                times = Counter(index for index in own.tolist() if REAL[index] == label).values()
                assert max(times) - min(times) <= 1
    one, again, other = (pools(seed, synthetic_ratio=0.5, synthetic_images="duplicates")[0][1] for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_class_weights_are_those_of_the_training_pool() -> None:
    options = {"class_weighting": "balanced", "synthetic_ratio": 1.0}
    mixed = supply().phases(Params(synthetic_balance="fill", **options), 1, 200)
    assert mixed[0].weights.tolist() == pytest.approx([40 / 3 / 14, 40 / 3 / 13, 40 / 3 / 13])
    alone, real = supply().phases(Params(synthetic_use="pretrain", **options), 1, 200)
    assert alone.weights.tolist() == pytest.approx([20 / 3 / 7, 20 / 3 / 7, 20 / 3 / 6])
    assert torch.equal(real.weights, class_weights(torch.as_tensor(REAL), 3, "balanced"))
    member = TrialState(
        Params(batch_size=6, **options), 1, 12, {}, (replace(alone, first=0), replace(real, first=3)), CPU
    )
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    expected = torch.cat([alone.weights, real.weights])
    assert torch.equal(member.weights(labels), expected)


def test_too_few_images_are_an_error_never_silently_fewer() -> None:
    supply().phases(Params(synthetic_ratio=5.0), 1, 200)
    scarce = np.repeat([0, 1, 2], [7, 3, 2])
    message = r"synthetic_ratio 1 needs 7 synthetic images of b, but there are 3; name a bank that holds as many"
    for bank, wrong in ((scarce, message), (None, "needs 7 synthetic images of a, but there are 0")):
        with pytest.raises(DataError, match=wrong):
            supply(bank).phases(Params(synthetic_ratio=1.0), 1, 200)
        supply(bank).phases(Params(synthetic_ratio=1.0, synthetic_images="duplicates"), 1, 200)


def session(synthetic: Part | None) -> Session:
    train, validation = part(IMAGES, LABELS), part(IMAGES[::-1].copy(), LABELS[::-1])
    data = Dataset(tuple(CLASSES), train, validation, None, None, None, "", synthetic)  # type: ignore[arg-type]
    return Session(Mixer(), Base(), data, Fidelity(max=3, min=1), Objective("macro_f1", "max"), slots=3)


def bank_part() -> Part:
    labels = np.repeat(np.arange(3), HELD)
    return part(np.random.default_rng(5).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8), labels)


def test_fidelity_counts_samples_whatever_the_ratio(tmp_path: Any) -> None:
    built = session(bank_part())
    for number, chosen in enumerate(
        [{"synthetic_ratio": 0.0}, {"synthetic_ratio": 5.0}, {"synthetic_ratio": 5.0, "synthetic_use": "pretrain"}]
    ):
        built.start(number, {"batch_size": 2, **chosen}, 1, tmp_path / str(number))
    reports: dict[int, list[Report]] = {0: [], 1: [], 2: []}
    while any(len(each) < 3 for each in reports.values()):
        for number, report in built.step():
            assert isinstance(report, Report)
            reports[number].append(report)
    assert [[r.fidelity for r in each] for each in reports.values()] == [[1, 2, 3]] * 3
    assert [[r.samples for r in each] for each in reports.values()] == [[22, 44, 66]] * 3


def test_validation_never_sees_a_synthetic_image(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only validation images are scored, and a trial without synthetic images is the same with and without a bank."""
    shown: list[Tensor] = []
    true = Toy.outputs

    def watched(self: Toy, model: Any, batch: Any, layout: Any) -> dict[str, Tensor]:
        if not layout.training:
            shown.append(batch["image"])
        return true(self, model, batch, layout)

    monkeypatch.setattr(Toy, "outputs", watched)
    states = []
    for synthetic, ratio in ((None, 0.0), (bank_part(), 0.0), (bank_part(), 4.0)):
        built = session(synthetic)
        built.start(0, {"synthetic_ratio": ratio}, 1, tmp_path / str(len(states)))
        shown.clear()
        built.until_report()
        assert torch.equal(torch.cat(shown), torch.from_numpy(IMAGES[::-1].copy()).unsqueeze(1).float() / 255)
        states.append(built.pack.state(built.runs[0].slot))
    assert equal(states[0], states[1])
    assert not equal(states[0], states[2])


@pytest.mark.parametrize("use", ["mix", "pretrain"])
def test_trial_resumes_exactly_from_its_checkpoint(use: str) -> None:
    def train(members: Any, slot: int, steps: int) -> list[float]:
        return [members.step()[slot] for _ in range(steps)]

    def new() -> Any:
        members = toy_pack(synthetic=bank_part())
        members.family = Mixer()
        return members

    params, whole, first, second = Params(synthetic_ratio=1.5, synthetic_use=use), new(), new(), new()
    expected = train(whole, whole.join(params, seed=2, horizon=40), 10)
    train(first, first.join(params, seed=2, horizon=40), 5)
    slot = second.join(params, seed=2, horizon=40, state=first.state(0))
    assert train(second, slot, 5) == expected[5:]
    assert equal(second.state(slot), whole.state(0))


def test_kept_features_of_both_sets_have_tables_of_their_own(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real images' tables are those of a study without a bank; the bank's are computed at their first use."""
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    computed: list[int] = []

    def halves(values: Any, *_: int) -> dict[str, Tensor]:
        computed.append(len(values["image"]))
        return {"half": values["image"].flatten(1) / 2}

    def cached(images: np.ndarray, further: CachedFeatures | None = None) -> CachedFeatures:
        columns = {"image": Column(IMAGE, images, CPU)}
        return CachedFeatures(columns, {}, ["image"], halves, "toy-x", 1, CPU, further)

    synthetic = bank_part()["image"]
    cached(IMAGES[:, None]).plain(0, N)
    computed.clear()
    kept = cached(IMAGES[:, None], cached(synthetic))
    members = [SimpleNamespace(params=Plain(augmentation=0))]
    rows = kept.take([torch.tensor([3, 1])], members)["half"]
    assert sum(computed) == 1  # one image tells the shape
    assert torch.equal(rows, torch.from_numpy(IMAGES[[3, 1]]).flatten(1).float() / 255 / 2)
    index = torch.tensor([N + 4, 2, N, 0])
    rows = kept.take([index], members)["half"]
    expected = (
        torch.from_numpy(np.concatenate([IMAGES[:, None], synthetic])[index.numpy()]).flatten(1).float() / 255 / 2
    )
    assert torch.equal(rows, expected)
    assert sum(computed) == 1 + 1 + len(synthetic)
