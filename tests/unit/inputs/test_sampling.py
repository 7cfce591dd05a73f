"""Class-balanced sampling: classes take turns, cases of a class too, whatever the batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from lungtune.core.params import param
from lungtune.engine.trial_state import TrialState
from lungtune.errors import DataError
from lungtune.inputs.training_pool import TrainingPool
from lungtune.models.params import Balance, Synthetic
from toy import CLASSES, N, Toy, equal
from toy import Params as Plain
from toy import pack as toy_pack

CPU = torch.device("cpu")
LABELS = np.repeat([2, 0, 1], [3, 17, 5])


@dataclass(frozen=True)
class Params(Synthetic, Balance, Plain):
    """The toy's, with class-balanced sampling."""

    batch_size: int = param(4)
    sampling: str = param("balanced", choices=("natural", "balanced"))


class Balanced(Toy):
    """The toy as a family with class-balanced sampling."""

    Params = Params


def trial(seed: int = 3, labels: np.ndarray = LABELS, further: np.ndarray | None = None, **params: Any) -> TrialState:
    values = Params(**params)
    phases = TrainingPool(len(labels), labels, further, CLASSES, CPU).phases(values, seed, 200)
    return TrialState(values, seed, 200, {}, phases, CPU)


def drawn(member: TrialState, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cases and views of some batches."""
    cases, views = [], []
    for _ in range(steps):
        cases.append(member.batch())
        views.append(member.views(1000))
        member.advance()
    return torch.cat(cases), torch.cat(views)


def test_every_class_and_every_case_of_it_is_taken_equally_often() -> None:
    cases, _ = drawn(trial(), 75)  # 300 cases, 12 passes
    labels = torch.as_tensor(LABELS)[cases]
    assert labels.bincount().tolist() == [100, 100, 100]
    for first in range(0, 300, 25):
        assert sorted(labels[first : first + 25].bincount().tolist()) == [8, 8, 9]
    for label in range(3):
        own = cases[labels == label]
        times = Counter(own.tolist())
        assert len(times) == (label == LABELS).sum()
        assert max(times.values()) - min(times.values()) <= 1


def test_order_is_a_function_of_seed_and_sample() -> None:
    cases, _ = drawn(trial(), 40)
    assert torch.equal(drawn(trial(), 40)[0], cases)
    assert torch.equal(drawn(trial(batch_size=10), 16)[0], cases)
    later = trial()
    later.samples = 100
    assert torch.equal(drawn(later, 15)[0], cases[100:])
    assert not torch.equal(drawn(trial(seed=4), 40)[0], cases)


def test_a_case_taken_again_shows_its_next_view() -> None:
    cases, views = drawn(trial(), 75)
    for case in range(len(LABELS)):
        mine = views[cases == case]
        assert torch.equal(mine.sort().values.diff().unique(), torch.tensor([1])) or 999 in mine.tolist()


def test_weights_are_of_the_frequencies_taken() -> None:
    for weighting in ("none", "sqrt", "balanced"):
        assert trial(class_weighting=weighting).phases[0].weights.tolist() == [1, 1, 1]
    assert trial(class_weighting="[1.0, 2.0, 3.0]").phases[0].weights.tolist() == pytest.approx([0.5, 1, 1.5])
    with_natural = trial(class_weighting="[1.0, 2.0, 3.0]", sampling="natural").phases[0].weights
    assert with_natural.tolist() == pytest.approx((torch.tensor([1, 2, 3]) * 25 / (17 + 10 + 9)).tolist())


def test_classes_without_images_are_left_out() -> None:
    cases, _ = drawn(trial(labels=np.repeat([0, 2], [9, 3])), 6)
    assert torch.as_tensor(np.repeat([0, 2], [9, 3]))[cases].bincount().tolist() == [12, 0, 12]


def test_synthetic_images_take_the_turns_of_their_class() -> None:
    further = np.repeat([0, 1, 2], 40)
    cases, _ = drawn(trial(further=further, synthetic_ratio=2.0), 75)
    labels = torch.as_tensor(np.concatenate([LABELS, further]))[cases]
    assert labels.bincount().tolist() == [100, 100, 100]
    assert {*cases.tolist()} >= {*range(25)}
    assert int(cases.max()) >= 25


def test_a_trial_resumes_exactly_and_a_pack_equals_solo_runs() -> None:
    def new() -> Any:
        members = toy_pack()
        members.family = Balanced()
        return members

    def train(members: Any, slot: int, steps: int) -> list[float]:
        return [members.step()[slot] for _ in range(steps)]

    params, whole, first, second = Params(batch_size=5), new(), new(), new()
    expected = train(whole, whole.join(params, seed=2, horizon=4 * N), 10)
    train(first, first.join(params, seed=2, horizon=4 * N), 5)
    state = first.state(0)
    slot = second.join(params, seed=2, horizon=4 * N, state=state)
    assert train(second, slot, 5) == expected[5:]
    assert equal(second.state(slot), whole.state(0))
    both = new()
    both.join(Params(sampling="natural"), seed=1, horizon=4 * N)
    slot = both.join(params, seed=2, horizon=4 * N)
    assert train(both, slot, 10) == pytest.approx(expected, rel=1e-4)


def test_data_without_classes_are_refused() -> None:
    with pytest.raises(DataError, match="sampling=balanced and smote need classes"):
        TrainingPool(5, None, None, (), CPU).phases(Params(), 1, 200)
