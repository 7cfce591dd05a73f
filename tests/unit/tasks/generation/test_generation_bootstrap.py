"""Bootstrap of sample scores: unbiased draws, paired draws, selection correction."""

import time
from dataclasses import replace

import numpy as np
import pytest

from lungtune.core.trial import Objective
from lungtune.stats import bootstrap, leaderboard, selection
from lungtune.stats.bootstrap import between, draw, scored
from lungtune.stats.leaderboard import Contender
from lungtune.tasks.generation.sample_metrics import Samples, scores
from tests.unit.tasks.generation.generated import CLASSES, SIGMA, images, samples_of


def scorer(found, images_each=1):
    return found.scorer(np.arange(len(found.labels)) // images_each)


def test_row_of_ones_gives_the_plain_score():
    samples = samples_of(0, real=60, samples=45, classes=3)
    reported = scores(samples, CLASSES)
    for each in (1, 3):
        one = scorer(samples, each)
        weights = np.vstack([draw(one.patients, 5, 0), np.ones((1, one.patients), int)])
        for name, key in (("cmmd", "cmmd"), ("coverage", "coverage"), ("cmmd_2", "cmmd_viral")):
            assert one.score(name, weights)[-1] == pytest.approx(reported[key], abs=1e-9)


def test_an_image_drawn_twice_is_not_paired_with_its_copy():
    """The weighted sum over pairs of different patients, and over a patient's own pairs once for each time drawn."""
    result, patients = samples_of(1, real=12, samples=6), np.repeat(np.arange(6), 2)
    weights, once = np.array([[3, 0, 1, 1, 0, 1]]), np.arange(6)
    result = replace(result, samples=result.real[once], drawn=result.drawn[once])
    kernel = np.exp(-(2 - 2 * result.real @ result.real.T) / (2 * SIGMA**2))
    pair = np.outer(weights[0][patients], weights[0][patients])
    same = patients[:, None] == patients
    pair = np.where(same, np.where(np.eye(12), 0, weights[0][patients][:, None]), pair)
    one = result.scorer(patients)
    real = (pair * kernel).sum() / pair.sum()
    drawn = one._parts[0].drawn(1, 0)[0]
    twice = np.outer(drawn, drawn) * (1 - np.eye(6))
    built = (twice * kernel[:6, :6]).sum() / twice.sum()
    w = weights[0][patients]
    across = (np.outer(w, drawn) * kernel[:, :6]).sum() / (w.sum() * drawn.sum())
    assert one.score("cmmd", weights)[0] == pytest.approx(1000 * (real + built - 2 * across))


@pytest.mark.parametrize("each", [1, 4])
def test_draws_are_centred_on_the_score(each):
    """Copies in a draw would lift it: by 1000 (1 - k) / N, some 8 here; alike images of a patient as much."""
    gaps = []
    for seed in range(20):
        samples = samples_of(seed, real=60 * each, samples=45, shift=0.5)
        alike = np.repeat(samples.real[::each], each, axis=0) + 0.01 * np.random.default_rng(seed).normal(
            size=(60 * each, 8)
        )
        one = scorer(replace(samples, real=alike), each)
        gaps.append(one.score("cmmd", draw(one.patients, 300, 1)).mean() - one.score("cmmd", np.ones((1, 60)))[0])
    assert np.mean(gaps) == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize(("shift", "least", "most"), [(0.0, 0.93, 1.0), (0.8, 0.89, 0.99)])
def test_intervals_have_nominal_coverage(shift, least, most):
    """150 validation sets and generators' samples. Without a distance the intervals are too wide, which is safe."""
    truth = scores(samples_of(99, 3000, 3000, shift), CLASSES)["cmmd"]
    hits = 0
    for seed in range(150):
        interval = scored(scorer(samples_of(seed, 80, 60, shift)), "cmmd", 200, seed)
        hits += interval.low <= truth <= interval.high
    assert least <= hits / 150 <= most


def test_few_samples_make_the_interval_wide():
    """With patients drawn alone, thirty samples of a thousand would be as sure as all of them."""
    few, many = (scored(scorer(samples_of(0, 300, count, 0.5)), "cmmd") for count in (30, 1000))
    assert few.high - few.low > 1.5 * (many.high - many.low)


def test_paired_differences_have_narrower_intervals():
    one, two = samples_of(0, 100, 80, 0.5, noise=5), samples_of(0, 100, 80, 0.8, noise=5)
    apart = samples_of(0, 100, 80, 0.8, noise=6)
    shared, separate = (between(scorer(each), scorer(one), "cmmd") for each in (two, apart))
    alone = [scored(scorer(each), "cmmd") for each in (one, two)]
    assert shared.low > 0, "less is better: the second is worse"
    assert shared.high - shared.low < 0.8 * (separate.high - separate.low)
    assert shared.high - shared.low < 0.5 * np.hypot(*(each.high - each.low for each in alone))
    same = between(scorer(one), scorer(replace(one)), "cmmd")
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_draw_d_of_the_samples_is_the_same_in_every_call():
    one = scorer(samples_of(0, classes=3))
    weights = draw(60, 50, 0)
    assert (one.score("cmmd", weights)[:20] == one.score("cmmd", weights[:20])).all()


def test_a_class_that_is_not_drawn_is_left_out_of_the_draw():
    samples = samples_of(0, real=20, samples=20)
    samples = replace(samples, labels=np.repeat([0, 1], [17, 3]), drawn=np.arange(20) % 2)
    weights = np.ones((1, 20), int)
    weights[0, 17:] = 0
    one = scorer(samples)
    assert np.isnan(one.score("cmmd_1", weights)[0])
    assert one.score("cmmd", weights)[0] == one.score("cmmd_0", weights)[0]
    assert np.isfinite(scored(one, "cmmd_1").low)


def test_best_of_many_generators_is_optimistic_corrected_is_not():
    """Forty generators as good as each other: their luck is in their samples as well as in the patients."""
    truth = scores(samples_of(99, 3000, 3000, 0.8), CLASSES)["cmmd"]
    naive, honest = [], []
    for seed in range(6):
        real = images(np.random.default_rng(seed), 100)
        built = [images(np.random.default_rng([seed, k]), 40, 0.8) for k in range(40)]
        each = [Samples(real, np.zeros(100, int), one, np.zeros(40, int), SIGMA) for one in built]
        naive.append(min(scores(one, CLASSES)["cmmd"] for one in each))
        honest.append(selection.expected(each, np.arange(100), "cmmd", "min", draws=200).value)
    assert np.mean(naive) < truth - 8
    assert np.mean(honest) == pytest.approx(truth, abs=5)


def test_a_leaderboard_ranks_generators_by_the_least_distance():
    samples = {name: samples_of(0, 100, 80, shift, noise=1) for name, shift in zip("abc", (2.0, 0.2, 1.2))}
    given = [Contender(name, each, scores(each, CLASSES)["cmmd"]) for name, each in samples.items()]
    candidates = {name: [each, samples_of(0, 100, 80, 2.0)] for name, each in samples.items()}
    ranking = leaderboard.board(np.arange(100), given, Objective("cmmd", "min", "generation"), candidates, draws=300)
    assert [row["name"] for row in ranking["rows"]] == ["b", "c", "a"]
    assert all(row["lead"]["low"] > 0 and row["beyond_chance"] for row in ranking["rows"][1:])
    assert ranking["corrected"]["value"] == pytest.approx(ranking["rows"][0]["value"], abs=4)
    best = leaderboard.board(np.arange(100), given[:2], Objective("coverage", "max", "generation"), draws=100)
    assert best["rows"][1]["lead"]["value"] <= 0, (
        "ranked by what they were chosen by, a worse coverage is a negative lead"
    )


def test_a_thousand_draws_over_a_thousand_images_are_quick():
    rng = np.random.default_rng(0)
    samples = Samples(
        rng.normal(size=(1000, 512)), np.arange(1000) % 3, rng.normal(size=(300, 512)), np.arange(300) % 3, 1.0
    )
    start = time.process_time()
    samples = bootstrap.scored(samples.scorer(np.arange(1000)), "cmmd")
    assert time.process_time() - start < 2
    assert samples.low < samples.value < samples.high
