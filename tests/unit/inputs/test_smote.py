"""SMOTE on features: rows on the segments between neighbours of a rare class, of the training fold alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from lungtune.core.params import param
from lungtune.engine.pack import Pack
from lungtune.errors import SpaceError
from lungtune.inputs import smote
from lungtune.inputs.batch import Batch
from lungtune.layers.layout import BatchLayout
from lungtune.models import feature_head
from lungtune.models.params import Classes, Loop, Smote, Synthetic
from toy import CLASSES, Toy, equal, part

LABELS = np.repeat([2, 0, 1], [4, 20, 9])
IMAGES = np.random.default_rng(1).integers(0, 256, (len(LABELS), 8, 8), dtype=np.uint8)


@dataclass(frozen=True)
class Base:
    """Kept features."""

    image_size: int = param(8)
    views: int = param(0)


@dataclass(frozen=True)
class Params(Smote, Synthetic, Classes, Loop):
    """A linear head's."""

    lr: float = param(1e-2, low=0.0, high=1.0)
    batch_size: int = param(4, low=1, high=64)
    augmentation: int = param(0, low=0, high=3)
    smote: bool = param(True)
    dropout: float = param(0.0)
    hidden: int = param(0)


class Head(Toy):
    """A linear head on the pixels, which it calls features."""

    Base, Params = Base, Params
    seen: Sequence[Batch] = ()

    def lora_targets(self, model: Any, params: Any) -> list[Any]:
        """Return none."""
        return []

    def trainable_parameters(self, model: Any, params: Any, classes: Any, generator: Any) -> dict[str, Tensor]:
        """Return a head."""
        return feature_head.draw(64, 0, len(classes), generator)

    def features(self, model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the pixels."""
        return {"features": batch["image"].flatten(1)}

    def outputs(self, model: Any, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        """Run the head."""
        self.seen = [*self.seen, batch] if layout.training else self.seen
        return {"logits": feature_head.linear(batch["features"], layout)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))


def pack(views: int = 0, capacity: int = 2, **options: Any) -> Pack:
    return Pack(Head(), Base(views=views), CLASSES, part(IMAGES, LABELS), capacity=capacity, **options)


def rows() -> Tensor:
    return torch.from_numpy(IMAGES).flatten(1).float() / 255


def member(of: Pack, slot: int = 0) -> Any:
    return of._trials[slot]


def test_nearest_rows_are_those_of_scikit_learn() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(2500, 6)).astype(np.float32))
    oracle = NearestNeighbors(n_neighbors=6).fit(points.numpy()).kneighbors(return_distance=False)[:, :5]
    assert (smote.nearest(points, 5).numpy() == oracle).mean() > 0.999


def test_neighbours_are_of_the_same_class_and_nearest_first() -> None:
    built = pack()
    for label, size in ((2, 4), (1, 9)):
        chosen = built._pool._neighbours.of(label)
        assert chosen.shape == (size, size - 1)
        cases = np.flatnonzero(label == LABELS)
        for case, others in zip(cases, chosen, strict=True):
            assert {*others.tolist()} == {*cases.tolist()} - {case}
            distances = (rows()[others] - rows()[case]).norm(dim=1)
            assert bool((distances.diff() >= -1e-6).all())


def test_rare_classes_are_filled_up_to_the_largest() -> None:
    built = pack()
    built.join(Params(smote_neighbours=2), seed=1, horizon=400)
    (phase,) = member(built).phases
    labels = torch.as_tensor(LABELS)
    assert labels[phase.pool].bincount().tolist() == [20, 20, 20]
    others, shares = phase.partners
    assert torch.equal(labels[others], labels[phase.pool])
    assert not shares[:33].any()
    assert bool(((shares[33:] >= 0) & (shares[33:] < 1)).all())
    assert len(shares[33:].unique()) == 27
    for label in (1, 2):
        bases = phase.pool[33:][labels[phase.pool[33:]] == label]
        times = Counter(bases.tolist()).values()
        assert len(times) == (label == LABELS).sum()
        assert max(times) - min(times) <= 1
        nearest = built._pool._neighbours.of(label)[:, :2]
        first = int((labels == label).nonzero()[0])
        for base, other in zip(phase.pool[33:], others[33:], strict=True):
            if labels[base] == label:
                assert other in nearest[base - first]


@pytest.mark.parametrize("views", [0, 2])
def test_rows_lie_between_base_and_neighbour(views: int) -> None:
    built = pack(views)
    built.join(Params(augmentation=0, batch_size=7), seed=1, horizon=400)
    interpolated = 0
    for _ in range(12):
        cases, (others, shares) = member(built).batch(), member(built).partners()
        expected = torch.lerp(rows()[cases], rows()[others], shares.unsqueeze(1))
        built.step()
        torch.testing.assert_close(built.family.seen[-1]["features"], expected)
        assert torch.equal(built.family.seen[-1]["label"], torch.as_tensor(LABELS)[cases])
        interpolated += int((shares > 0).sum())
    assert interpolated > 20


def test_base_and_neighbour_are_seen_in_one_view() -> None:
    built = pack(views=2)
    built.join(Params(augmentation=2, batch_size=30), seed=1, horizon=400)
    cases, (others, shares) = member(built).batch(), member(built).partners()
    views = member(built).views(2)
    assert {*views.tolist()} == {0, 1}
    tables = [built._train._table(2, view)["features"] for view in range(2)]
    built.step()
    for row, view in enumerate(views.tolist()):
        expected = torch.lerp(tables[view][cases[row]], tables[view][others[row]], shares[row])
        torch.testing.assert_close(built.family.seen[-1]["features"][row], expected)


@pytest.mark.parametrize("views", [0, 2])
def test_rows_are_a_function_of_the_seed_in_any_pack(views: int) -> None:
    def train(members: Pack, slot: int, steps: int) -> list[float]:
        return [members.step()[slot] for _ in range(steps)]

    params = Params(augmentation=1, batch_size=5)
    whole, first, second = pack(views), pack(views), pack(views)
    expected = train(whole, whole.join(params, seed=2, horizon=400), 8)
    train(first, first.join(params, seed=2, horizon=400), 4)
    slot = second.join(params, seed=2, horizon=400, state=first.state(0))
    assert train(second, slot, 4) == expected[4:]
    assert equal(second.state(slot), whole.state(0))
    both = pack(views)
    both.join(Params(augmentation=3, batch_size=3, smote=False), seed=1, horizon=400)
    slot = both.join(params, seed=2, horizon=400)
    assert train(both, slot, 8) == pytest.approx(expected, rel=1e-4)
    other = pack(views)
    assert train(other, other.join(params, seed=3, horizon=400), 8) != expected


def test_a_bank_fills_first_and_is_no_base() -> None:
    labels = np.repeat([0, 1, 2], 40)
    bank = part(np.random.default_rng(5).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8), labels)
    built = pack(synthetic=bank)
    built.join(Params(synthetic_ratio=0.2, synthetic_balance="fill"), seed=1, horizon=400)
    (phase,) = member(built).phases
    _, shares = phase.partners
    every = torch.as_tensor(np.concatenate([LABELS, labels]))
    assert every[phase.pool].bincount().tolist() == [20, 20, 20]
    assert int((phase.pool >= len(LABELS)).sum()) == 7
    assert int(phase.pool[shares > 0].max()) < len(LABELS)
    alone = pack(synthetic=bank)
    alone.join(Params(synthetic_ratio=1.0, synthetic_use="pretrain"), seed=1, horizon=400)
    before, after = member(alone).phases
    assert before.partners is None
    assert every[after.pool].bincount().tolist() == [20, 20, 20]
    for _ in range(60):  # across the end of the first phase
        alone.step()


def test_validation_is_never_interpolated() -> None:
    built = pack()
    slot = built.join(Params(), seed=1, horizon=400)
    built.step()
    seen: list[Tensor] = []
    true = Head.outputs

    def watched(self: Head, model: Any, batch: Batch, layout: BatchLayout) -> dict[str, Tensor]:
        seen.append(batch["features"])
        return true(self, model, batch, layout)

    built.family.outputs = watched.__get__(built.family)  # type: ignore[method-assign]
    built.predict(part(IMAGES, LABELS), [slot])
    torch.testing.assert_close(torch.cat(seen), rows())


def test_a_class_of_one_image_is_refused() -> None:
    lone = np.repeat([0, 1, 2], [8, 1, 3])
    built = Pack(Head(), Base(), CLASSES, part(IMAGES[: len(lone)], lone), capacity=1)
    with pytest.raises(SpaceError, match="smote needs at least 2 training images of a class, but b has 1"):
        built.join(Params(), seed=1, horizon=400)
