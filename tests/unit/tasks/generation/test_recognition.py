"""Recognition of samples by a classifier of real images."""

import numpy as np
import pytest

from lungtune.errors import TrialError
from lungtune.tasks.generation.recognition import Recogniser

CLASSES = ("normal", "covid", "tuberculosis")
_RNG = np.random.default_rng(3)
_CENTRES = _RNG.normal(size=(3, 16))


def pictures(classes, seed, spread=0.3):
    classes = np.asarray(classes)
    return _CENTRES[classes] + spread * np.random.default_rng(seed).normal(size=(len(classes), 16))


@pytest.fixture(scope="module")
def recogniser():
    labels = np.repeat([0, 1, 2], [200, 60, 12])  # an imbalance that would let a plain fit forget the last
    return Recogniser(pictures(labels, 0), labels, CLASSES)


def test_images_of_their_class_are_recognised_the_rare_one_too(recogniser):
    labels = np.repeat([0, 1, 2], 50)
    shares = recogniser.shares(pictures(labels, 1), labels)
    assert set(shares) == {"recognised", *(f"recognised_{name}" for name in CLASSES)}
    assert min(shares.values()) > 0.95


def test_class_blind_generator_is_detected(recogniser):
    """Its samples may be perfect images of one class."""
    asked = np.repeat([0, 1, 2], 50)
    shares = recogniser.shares(pictures(np.zeros(150, int), 2), asked)
    assert shares["recognised_normal"] > 0.95
    assert shares["recognised"] == pytest.approx(1 / 3, abs=0.02)


def test_classes_count_the_same_those_without_images_do_not(recogniser):
    shown, asked = np.array([0] * 90 + [0] * 10), np.array([0] * 90 + [1] * 10)
    shares = recogniser.shares(pictures(shown, 3), asked)
    assert shares["recognised"] == pytest.approx((shares["recognised_normal"] + shares["recognised_covid"]) / 2)
    assert shares["recognised"] < 0.6
    assert "recognised_tuberculosis" not in shares


def test_embeddings_that_are_not_finite_are_refused(recogniser):
    torn = pictures(np.zeros(5, int), 5)
    torn[1] = np.nan
    with pytest.raises(TrialError, match="embeddings of 1 of 5 images are not finite"):
        recogniser.shares(torn, np.zeros(5, int))


def test_embedding_norm_has_no_effect(recogniser):
    labels = np.repeat([0, 1, 2], 30)
    same = pictures(labels, 4)
    assert recogniser.shares(40 * same, labels) == recogniser.shares(same, labels)
