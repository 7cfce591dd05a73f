"""Sample metrics: unbiased distance per class, and differences from the published kernel."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lungtune.errors import TrialError
from lungtune.tasks.generation import sample_metrics
from lungtune.tasks.generation.sample_metrics import Samples, bandwidth, normalised, scores
from tests.unit.tasks.generation.generated import CLASSES, SIGMA, images, samples_of


def mmd(real, samples, sigma):
    """The definition, pair by pair."""
    k = lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * sigma**2))  # noqa: E731
    inner = [
        np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
        for x in (normalised(real), normalised(samples))
    ]
    return 1000 * (sum(inner) - 2 * np.mean([k(a, b) for a in normalised(real) for b in normalised(samples)]))


def test_task_and_metrics_import_light():
    code = "import sys; import lungtune.tasks.generation as g; t = g.Generation(); "
    code += "assert t.metrics['cmmd'].mode == 'min'; "
    code += "assert t.metrics['coverage'].mode == 'max'; assert t.by_class_mode == 'min'; "
    code += "assert 'numpy' not in sys.modules; "
    code += "import lungtune.tasks.generation.sample_metrics; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sklearn", "torch", "scipy", "pandas"} & set(loaded)


def test_the_distance_is_the_definition_class_by_class():
    samples = samples_of(0, real=21, samples=15, shift=0.5, classes=3)
    samples = replace(samples, real=7 * samples.real, samples=0.1 * samples.samples)  # lengths don't matter
    reported = scores(samples, CLASSES)
    expected = [mmd(samples.real[samples.labels == k], samples.samples[samples.drawn == k], SIGMA) for k in range(3)]
    assert [reported[f"cmmd_{name}"] for name in CLASSES] == pytest.approx(expected)
    assert reported["cmmd"] == pytest.approx(np.mean(expected))
    assert set(reported) == {"cmmd", "coverage", *(f"cmmd_{name}" for name in CLASSES)}


def test_distance_of_equal_distributions_is_0_on_average():
    """400 sets; below 0 as often as above. The mean's standard error is 0.3, one image less would shift it by 10."""
    result = [scores(samples_of(seed), CLASSES)["cmmd"] for seed in range(400)]
    assert np.mean(result) == pytest.approx(0, abs=4 * np.std(result) / 20)
    assert 0.3 < np.mean(np.array(result) < 0) < 0.7


def test_the_distance_grows_with_the_shift():
    result = [scores(samples_of(0, 200, 200, shift), CLASSES)["cmmd"] for shift in (0.0, 0.5, 1.0, 2.0)]
    assert result == sorted(result)
    assert result[-1] > 50


def test_median_sigma_punishes_collapse_published_one_hardly():
    """All its samples are the typical image. With sigma 10 it beats an honest generator that is a little off."""
    collapsed, honest = samples_of(0, 300, 300, spread=0.02), samples_of(0, 300, 300, shift=1.5)
    score = lambda each, sigma: scores(replace(each, sigma=sigma), CLASSES)["cmmd"]  # noqa: E731
    assert score(collapsed, 10.0) < score(honest, 10.0)
    assert score(collapsed, SIGMA) > 1.5 * score(honest, SIGMA)
    rng = np.random.default_rng(1)
    mean = samples_of(0, 300).real.mean(axis=0)
    turned = normalised(rng.normal(size=(1, 8)))  # two images only, whose mean is the real mean
    turned -= (turned @ mean) / (mean @ mean) * mean
    turned *= np.sqrt(1 - mean @ mean) / np.linalg.norm(turned)
    two = np.repeat([1, -1], 150)[:, None] * turned + mean
    same_mean = Samples(samples_of(0, 300).real, np.zeros(300, int), two, np.zeros(300, int), SIGMA)
    assert score(same_mean, 10.0) == pytest.approx(0, abs=0.2)
    assert score(same_mean, SIGMA) > 50


def test_coverage_counts_images_with_a_sample_near_them():
    rng = np.random.default_rng(0)
    real = images(rng, 40)
    squared = 2 - 2 * real @ real.T
    radius = np.sort(squared, axis=1)[:, sample_metrics.NEIGHBOURS]  # 0 is the image itself
    samples = images(rng, 10, 0.5)
    expected = ((2 - 2 * real @ samples.T) <= radius[:, None]).any(axis=1).mean()
    one = np.zeros
    assert scores(Samples(real, one(40, int), samples, one(10, int), SIGMA), CLASSES)["coverage"] == expected
    assert scores(samples_of(0, 100, 100), CLASSES)["coverage"] > 0.9
    assert scores(samples_of(0, 100, 100, spread=0.02), CLASSES)["coverage"] < 0.4


@pytest.mark.parametrize("part", ["real", "samples"])
def test_a_class_with_fewer_than_two_is_left_out(part):
    whole = samples_of(0, real=30, samples=30, classes=3)
    rows = np.flatnonzero(np.arange(30) % 3 != 2)
    rows = np.append(rows, 2)  # one of the last class
    classes = {"real": "labels", "samples": "drawn"}[part]
    few = replace(whole, **{part: getattr(whole, part)[rows], classes: getattr(whole, classes)[rows]})
    reported = scores(few, CLASSES)
    assert "cmmd_viral" not in reported
    assert reported["cmmd"] == pytest.approx((reported["cmmd_normal"] + reported["cmmd_bacterial"]) / 2)
    assert np.isfinite(list(reported.values())).all()
    assert np.isnan(few.scorer(np.arange(len(few.labels))).score("cmmd_2", np.ones((1, len(few.labels)), int))).all()


def test_real_images_are_the_floor():
    """As many of each class as samples, the same ones in every call; fewer where there are no more."""
    rng = np.random.default_rng(5)
    samples = samples_of(3, real=120, samples=90, shift=1.0, classes=3)
    train, labels = images(rng, 205), np.append(np.arange(200) % 2, [2] * 5)
    floor = sample_metrics.real_images(samples, train, labels)
    assert np.bincount(floor.drawn).tolist() == [30, 30, 5]
    assert {row.tobytes() for row in floor.samples} <= {row.tobytes() for row in train}
    assert (floor.samples == sample_metrics.real_images(samples, train, labels).samples).all()
    assert abs(scores(floor, CLASSES)["cmmd"]) < scores(samples, CLASSES)["cmmd"] / 3


def test_the_bandwidth_is_the_median_distance():
    result = images(np.random.default_rng(0), 30)
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(result) for b in result[:i]]
    assert bandwidth(3 * result) == pytest.approx(np.median(pairs))
    many = images(np.random.default_rng(0), 5000)
    assert bandwidth(many) == bandwidth(many) == pytest.approx(SIGMA, rel=0.03)


@pytest.mark.parametrize("given", [np.ones((5, 3)), np.ones((1, 3)), np.full((4, 3), np.nan)])
def test_a_bandwidth_needs_different_images(given):
    with pytest.raises(ValueError, match="Embeddings of different images must be given"):
        bandwidth(given)


def test_wrong_input_is_reported():
    samples = samples_of(0)
    with pytest.raises(ValueError, match=r"'cmdd' is not a metric of samples\. Did you mean 'cmmd'"):
        samples.scorer(np.arange(60)).score("cmdd", np.ones((1, 60), int))
    with pytest.raises(ValueError, match=r"real \(N, D\), labels \(N,\), samples \(M, D\)"):
        scores(replace(samples, labels=samples.labels[1:]), CLASSES)
    with pytest.raises(ValueError, match="sigma > 0 must hold"):
        scores(replace(samples, sigma=0.0), CLASSES)
    with pytest.raises(ValueError, match="at least two validation images and two samples"):
        scores(replace(samples, samples=samples.samples[:1], drawn=samples.drawn[:1]), CLASSES)
    broken = samples.samples.copy()
    broken[3, 2] = np.inf
    with pytest.raises(TrialError, match="The embeddings of 1 of 45 samples are not finite") as caught:
        scores(replace(samples, samples=broken), CLASSES)
    assert caught.value.reason == "nan"
