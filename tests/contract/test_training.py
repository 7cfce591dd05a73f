"""Training of every family: reproducible alone or in a pack; every axis of its search has an effect.

"Equal" between packs of different size means equal up to the order of floating-point sums: losses within 1e-4 relative
over a few steps at a rate far above what a search would use. Equal within one composition means bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lungtune.core.params import specs
from lungtune.data.dataset import Part
from lungtune.engine import checkpoint
from lungtune.engine.pack import Pack
from lungtune.engine.trial_state import VERIFY_STEPS
from lungtune.errors import CheckpointError

from .conftest import CLASSES, HORIZON, Sample

CLOSE = {"rel": 1e-4, "abs": 1e-5}


def losses(pack: Pack, slot: int, steps: int) -> list[float]:
    return [pack.step()[slot] for _ in range(steps)]


def alone(family: Sample, params: object, seed: int, steps: int) -> tuple[list[float], Pack]:
    pack = family.pack(1)
    return losses(pack, pack.join(params, seed=seed, horizon=HORIZON), steps), pack


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_same_seed_same_losses_other_seed_other_losses(family: Sample) -> None:
    first, pack = alone(family, family.default, 1, 3)
    second, again = alone(family, family.default, 1, 3)
    other, _ = alone(family, family.default, 2, 3)
    assert first == second
    assert same(pack.state(0), again.state(0))
    assert first != other


def test_pack_gives_each_trial_its_solo_result(family: Sample) -> None:
    """Six trials that differ in everything, of different age; one leaves midway and another takes its place."""
    variants = family.variants(6)
    pack = family.pack(6)
    got: dict[int, list[float]] = {}
    who = {pack.join(variants[i], seed=i, horizon=HORIZON): i for i in range(4)}

    def run(steps: int) -> None:
        for _ in range(steps):
            for slot, loss in pack.step().items():
                got.setdefault(who[slot], []).append(loss)

    run(2)
    who[pack.join(variants[4], seed=4, horizon=HORIZON)] = 4
    run(2)
    leaver = next(iter(who))
    pack.leave(leaver)
    who[pack.join(variants[5], seed=5, horizon=HORIZON)] = 5
    run(2)
    for slot, i in who.items():
        expected, solo = alone(family, variants[i], i, len(got[i]))
        assert got[i] == pytest.approx(expected, **CLOSE), f"trial {i}: {variants[i]}"
        torch.testing.assert_close(family.predicted(pack, slot), family.predicted(solo, 0), **family.tolerance)


def test_checkpoint_file_resumes_in_another_pack(family: Sample, tmp_path: Path) -> None:
    variants = family.variants(3)
    expected, solo = alone(family, variants[0], 0, 6)
    pack = family.pack(3)
    slots = [pack.join(v, seed=i, horizon=HORIZON) for i, v in enumerate(variants)]
    got = losses(pack, slots[0], 3)
    checkpoint.save(tmp_path / "c.safetensors", pack.state(slots[0]), {"samples": pack.samples(slots[0])})
    state, meta = checkpoint.load(tmp_path / "c.safetensors")
    single = family.pack(1)
    slot = single.join(variants[0], seed=0, horizon=HORIZON, state=state)
    assert single.samples(slot) == meta["samples"]
    got += losses(single, slot, 3)
    assert got == pytest.approx(expected, **CLOSE)
    torch.testing.assert_close(family.predicted(single, slot), family.predicted(solo, 0), **family.tolerance)


def test_resume_alone_is_bit_identical(family: Sample) -> None:
    params = family.variants(2)[1]
    expected, whole = alone(family, params, 3, 4)
    _, pack = alone(family, params, 3, 2)
    again = family.pack(1)
    slot = again.join(params, seed=3, horizon=HORIZON, state=pack.state(0))
    assert losses(again, slot, 2) == expected[2:]
    assert same(again.state(slot), whole.state(0))


def test_targets_match_and_trained_parameters_get_gradients(family: Sample) -> None:
    seen = set()
    for params in family.variants(8):
        pack = family.pack(1)
        slot = pack.join(params, seed=1, horizon=HORIZON)
        for _ in range(4 * VERIFY_STEPS):  # steps without a case that has all targets do not count
            pack.step()
            if pack.verify(slot):
                break
        assert pack.verify(slot)
        names = {name.rpartition(".lora_")[0] for name in pack.adapter(slot)}
        assert names
        seen.add(frozenset(names))
    assert len(seen) > 1 or not any("targets" in f.name for f in fields(family.family.Params))


def test_every_axis_has_an_effect(family: Sample) -> None:
    """Each value of each parameter leads to other weights or, with equal weights, to other predictions.

    A parameter that acts for one value of another only is varied with that value.
    """

    def trained(params: Any) -> tuple[dict[str, Tensor], Tensor]:
        _, pack = alone(family, params, 1, 3)
        return pack.state(0), family.predicted(pack, 0)

    usual = family.default
    plain = trained(usual)  # the first value of each
    for name in specs(family.family.Params):
        default = family.switched_on(name)
        first, *others = family.values(name, default)
        results = [(first, *(plain if default == usual else trained(default)))]
        for value in others:
            results.append((value, *trained(replace(default, **{name: value}))))
        for i, (value, state, scores) in enumerate(results):
            for other, state_2, scores_2 in results[:i]:
                assert not same(state, state_2) or not torch.equal(scores, scores_2), f"{name}: {value} acts as {other}"


def probabilities(of: Sample, pack: Pack, slot: int, part: Part | None = None, batch_size: int | None = None) -> Tensor:
    return pack.predict(part or of.part, [slot], batch_size=batch_size)[slot]["probabilities"]


def test_an_untrained_model_scores_classes_not_its_batch(classifier: Sample) -> None:
    """Images scored against the captions of their own batch would have the loss ln(batch), whatever they show."""
    pack = classifier.pack(1)
    slot = pack.join(classifier.default, seed=1, horizon=HORIZON)
    scores = probabilities(classifier, pack, slot, batch_size=4)
    labels = classifier.part["label"]
    assert scores.shape == (len(labels), len(CLASSES))
    first = probabilities(classifier, pack, slot, classifier.part.select(np.arange(1)))
    torch.testing.assert_close(first, scores[:1], atol=1e-5, rtol=0)
    nll = -scores.log()[range(len(scores)), labels]
    batches = torch.stack([part.mean() for part in nll.split(4)])
    assert (batches - math.log(4)).abs().max() > 1e-3
    assert batches.std() > 1e-4


def test_evaluation_is_deterministic_and_covers_every_case(predictor: Sample) -> None:
    pack = predictor.pack(1)
    slot = pack.join(predictor.variants(4)[3], seed=1, horizon=HORIZON)
    pack.step()
    first, whole, second = (predictor.predicted(pack, slot, batch_size=size) for size in (5, None, 5))
    assert len(first) == len(predictor.part)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole, atol=1e-5, rtol=0)


def test_a_classifier_learns(classifier: Sample) -> None:
    pack, labels = classifier.pack(1), classifier.part["label"]
    calm = replace(classifier.default, augmentation=0, batch_size=8, lr=3e-3, warmup=0.0)
    slot = pack.join(calm, seed=1, horizon=10_000)
    before = -probabilities(classifier, pack, slot).log()[range(len(labels)), labels].mean()
    losses(pack, slot, 30)
    after = -probabilities(classifier, pack, slot).log()[range(len(labels)), labels].mean()
    assert after < 0.7 * before


def test_every_family_learns(predictor: Sample) -> None:
    pack = predictor.pack(1)
    calm = replace(predictor.default, augmentation=0, batch_size=8, lr=3e-3, warmup=0.0)
    result = losses(pack, pack.join(calm, seed=1, horizon=10_000), 45)
    assert np.mean(result[-15:]) < 0.85 * np.mean(result[:15])


MEANING = {"optimizer"}
"""Structural parameters that change the meaning of a state, not its shapes."""


def test_only_structural_changes_make_a_checkpoint_unfit(family: Sample) -> None:
    """``structural`` decides, before anything runs, if a trial can take another one's checkpoint."""

    pack = family.pack(1)

    def loads(before: Any, after: Any) -> bool:
        pack.join(before, seed=1, horizon=HORIZON)
        pack.step()
        state = pack.state(0)
        pack.leave(0)
        try:
            pack.join(after, seed=2, horizon=HORIZON, state=state)
        except CheckpointError:
            return False
        finite = all(math.isfinite(loss) for loss in pack.step().values())
        pack.leave(0)
        return finite

    for name, spec in specs(family.family.Params).items():
        start = family.switched_on(name)
        special = () if isinstance(spec.structural, bool) else spec.structural
        values = dict.fromkeys([*family.values(name, start), *special])
        pairs = [(a, b) for a in values for b in values if a != b][:4]
        kept = {pair: loads(*(replace(start, **{name: value}) for value in pair)) for pair in pairs}
        declared = {pair: spec.keeps_state(*pair) for pair in pairs}
        if name not in MEANING:
            assert kept == declared, name
        assert spec.structural is False or not all(declared.values()), name
