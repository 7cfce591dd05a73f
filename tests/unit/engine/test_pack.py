"""Pack on a toy family: data order, resume, isolation, checks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungtune.engine.trial_state import TrialState
from lungtune.errors import CheckpointError, SpaceError, TrialError
from lungtune.inputs.training_pool import TrainingPool
from toy import CLASSES, HARD, IMAGES, LABELS, PART, REAL, N, Params, equal, pack, part, predicted, run


def test_every_pass_shows_every_image_once_in_a_new_order() -> None:
    member = TrialState(Params(batch_size=5), 3, 100, {}, REAL, torch.device("cpu"))
    batches = []
    for _ in range(14):
        batches.append(member.batch())
        member.advance()
    passes = torch.cat(batches)[: 3 * N].view(3, N)
    assert all(sorted(one.tolist()) == list(range(N)) for one in passes)
    assert not torch.equal(passes[0], passes[1])


def test_every_step_and_every_seed_has_its_own_random_numbers() -> None:
    def draws(seed: int) -> list[tuple[float, ...]]:
        member = TrialState(Params(), seed, 100, {}, REAL, torch.device("cpu"))
        result = []
        for _ in range(3):
            shifts = torch.rand(4, generator=member.augmentation()).tolist()
            result.append((*shifts, *member.bits().take(4).tolist()))
            member.advance()
        return result

    assert draws(1) == draws(1)
    for some in (slice(0, 4), slice(4, 8)):
        assert len({one[some] for one in draws(1) + draws(2)}) == 6


def test_a_batch_may_be_larger_than_the_fold() -> None:
    members = pack(train=part(IMAGES[:3], LABELS[:3]))
    slot = members.join(Params(batch_size=8), seed=1, horizon=80)
    run(members, 3)
    assert members.samples(slot) == 24


def test_samples_count_images_seen() -> None:
    members = pack()
    a, b = members.join(Params(batch_size=4), seed=1, horizon=80), members.join(HARD, seed=2, horizon=80)
    run(members, 3)
    assert (members.samples(a), members.samples(b)) == (12, 15)


FALLING = {"lr_schedule": "step", "lr_step": 0.1, "lr_gamma": 0.5, "warmup": 0.1, "warmup_start": 0.1}


@pytest.mark.parametrize("cut", [1, 5, 7])
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adam", **FALLING}, {"optimizer": "sgd", "momentum": 0.9, "lr_cosine": 0.2}],
    ids=["adamw", "adam", "sgd"],
)
def test_resume_is_bit_identical(cut: int, changes: dict[str, Any]) -> None:
    params = replace(HARD, **changes)
    whole = pack()
    slot = whole.join(params, seed=7, horizon=200)
    expected = [loss[slot] for loss in run(whole, 12)]
    first = pack()
    run_first = first.join(params, seed=7, horizon=200)
    losses = [loss[run_first] for loss in run(first, cut)]
    again = pack(capacity=1)
    slot = again.join(params, seed=7, horizon=200, state=first.state(run_first))
    losses += [loss[slot] for loss in run(again, 12 - cut)]
    assert losses == expected
    assert equal(again.state(slot), whole.state(0))


def test_state_does_not_depend_on_the_pack_it_was_in() -> None:
    alone, shared = pack(), pack()
    a = alone.join(HARD, seed=7, horizon=200)
    shared.join(Params(rank=16), seed=1, horizon=100)
    b = shared.join(HARD, seed=7, horizon=200)
    run(alone, 4), run(shared, 4)
    one, other = alone.state(a), shared.state(b)
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=1e-5, rtol=1e-4)


def test_a_larger_rank_joins_without_disturbing_the_smaller() -> None:
    members = pack()
    slot = members.join(Params(rank=2), seed=1, horizon=100)
    run(members, 3)
    before = members.state(slot)
    members.join(Params(rank=16), seed=2, horizon=100)
    assert equal(members.state(slot), before)
    members.leave(1)
    assert equal(members.state(slot), before)


def test_leaving_detaches_unused_layers() -> None:
    members = pack()
    a = members.join(Params(targets="first"), seed=1, horizon=100)
    b = members.join(Params(targets="second"), seed=1, horizon=100)
    run(members, 1)
    members.leave(b)
    assert isinstance(members.model.second, torch.nn.Linear)
    run(members, 1)
    members.leave(a)
    assert members.step() == {}
    assert members.slots == ()
    assert members.join(Params(), seed=1, horizon=100) == a


def test_a_diverging_trial_disturbs_no_other() -> None:
    alone, shared = pack(), pack()
    a = alone.join(Params(), seed=1, horizon=400)
    b = shared.join(Params(), seed=1, horizon=400)
    bad = shared.join(Params(lr=1e30, warmup=0.0), seed=2, horizon=400)
    expected = [loss[a] for loss in run(alone, 6)]
    losses = run(shared, 6)
    assert math.isnan(losses[-1][bad])
    assert [loss[b] for loss in losses] == pytest.approx(expected, rel=1e-4)
    assert predicted(shared, b).isfinite().all()


def test_full_pack_refuses_trials() -> None:
    members = pack(capacity=1)
    members.join(Params(), seed=1, horizon=10)
    with pytest.raises(ValueError, match="at most capacity=1 trials"):
        members.join(Params(), seed=2, horizon=10)


def test_unmatched_target_is_refused_without_side_effects() -> None:
    members = pack()
    with pytest.raises(SpaceError, match="'attn' must match at least one layer"):
        members.join(Params(targets="first|attn"), seed=1, horizon=10)
    assert members.slots == ()


def test_an_adapter_without_gradient_fails_its_trial_only() -> None:
    members = pack()
    good = members.join(Params(), seed=1, horizon=10)
    dead = members.join(Params(targets="first|idle"), seed=1, horizon=10)
    members.step()
    members.verify(good)
    with pytest.raises(TrialError, match=r"1 got none: idle\.lora_B"):
        members.verify(dead)


def test_state_of_another_trial_is_refused() -> None:
    members = pack()
    slot = members.join(Params(rank=2), seed=1, horizon=10)
    state = members.state(slot)
    with pytest.raises(CheckpointError, match="must fit its parameters"):
        members.join(Params(rank=4), seed=1, horizon=10, state=state)
    del state["progress"]
    with pytest.raises(CheckpointError, match="must fit its parameters"):
        members.join(Params(rank=2), seed=1, horizon=10, state=state)


def test_prediction_does_not_depend_on_how_images_are_batched() -> None:
    members = pack()
    slots = [members.join(replace(HARD, rank=r), seed=r, horizon=100) for r in (2, 4)]
    run(members, 3)
    for slot in slots:
        whole, parts = predicted(members, slot, batch_size=N), predicted(members, slot, batch_size=5)
        assert whole.shape == (N, 3)
        torch.testing.assert_close(whole.sum(1), torch.ones(N))
        torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)
        assert torch.equal(whole, predicted(members, slot, batch_size=N))
    assert members.predict(PART).keys() == set(slots)
    assert members.predict(PART, [slots[1]]).keys() == {slots[1]}


def test_prediction_does_not_change_training() -> None:
    quiet, asked = pack(), pack()
    a, b = (members.join(HARD, seed=1, horizon=100) for members in (quiet, asked))
    run(quiet, 3)
    for _ in range(3):
        asked.step()
        asked.predict(PART)
    assert equal(quiet.state(a), asked.state(b))


def test_bf16_autocast_trains_with_float32_adapters() -> None:
    members = pack(precision="bf16")
    slot = members.join(Params(), seed=1, horizon=100)
    losses = [loss[slot] for loss in run(members, 5)]
    assert all(map(math.isfinite, losses))
    assert {t.dtype for k, t in members.state(slot).items() if k != "progress"} == {torch.float32}
    assert predicted(members, slot).dtype == torch.float32


def test_wrong_precision_and_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="precision must be fp32 or bf16, but got 'fp8'"):
        pack(precision="fp8")
    with pytest.raises(ValueError, match=r"image must be uint8 \(N, C, H, W\), but got float32"):
        pack(train=part(IMAGES.astype(np.float32)))
    with pytest.raises(ValueError, match="one label a case must be given, but got 22 cases and 21 labels"):
        TrainingPool(N, LABELS[:-1], None, CLASSES, torch.device("cpu"))


def test_images_may_be_a_read_only_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    a, b = pack(), pack(train=part(mapped))
    slots = [members.join(HARD, seed=1, horizon=100) for members in (a, b)]
    assert [x[slots[0]] for x in run(a, 2)] == [x[slots[1]] for x in run(b, 2)]
    assert torch.equal(predicted(a, 0), predicted(b, 0, part(mapped)))


def test_the_schedule_goes_on_by_samples_after_a_change_of_batch() -> None:
    """A trial that goes on with larger batches stands where it was in the schedule, not as many steps on."""

    def rate(batch: int, samples: int) -> float:
        params = Params(batch_size=batch, lr=1.0, warmup=0.0)
        trial = TrialState(params, 0, 400, {}, REAL, torch.device("cpu"))
        trial.steps, trial.samples = 50, samples
        return trial.advance().rate

    assert rate(4, 200) == pytest.approx(rate(20, 200), abs=1e-6)
    assert rate(20, 200) == pytest.approx(0.5, abs=1e-6)
