"""Memorisation: copies of training images are detected; honest and blurred samples are not flagged."""

import numpy as np
import pytest

from lungtune.tasks.generation.memorisation import Copies, Pictures, copies, small

HIDDEN, SIDE = 16, 64
_RNG = np.random.default_rng(5)
_EMBED = _RNG.normal(size=(HIDDEN, 64))
_BASE = 4 * _RNG.normal(size=64)
_ROW, _COLUMN = np.mgrid[:SIDE, :SIDE] / SIDE
_WAVES = np.stack(
    [
        np.cos(np.pi * (a * _ROW + b * _COLUMN) + c)
        for a, b, c in zip(_RNG.uniform(-4, 4, HIDDEN), _RNG.uniform(-4, 4, HIDDEN), _RNG.uniform(0, 6, HIDDEN))
    ]
)


def pictures(latent, rng):
    """Images of some hidden numbers, with a little noise in their pixels and embeddings."""
    embeddings = _BASE + latent @ _EMBED + 0.3 * rng.normal(size=(len(latent), 64))
    images = 128 + 25 * np.tensordot(latent, _WAVES, 1) + 10 * rng.normal(size=(len(latent), SIDE, SIDE))
    return Pictures(embeddings, small(np.clip(images, 0, 255).astype(np.uint8)))


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(1000, HIDDEN))
    return latent, pictures(latent, rng), pictures(rng.normal(size=(300, HIDDEN)), rng), rng


@pytest.mark.parametrize("change", [0.0, 0.1, 0.2])
def test_copies_with_little_noise_are_detected(world, change):
    latent, train, validation, rng = world
    copied = copies(pictures(latent[:200] + change * rng.normal(size=(200, HIDDEN)), rng), train, validation)
    assert copied.share > 0.95
    assert np.mean(copied.nearest == np.arange(200)) > 0.95
    assert copied.distance.shape == copied.relative.shape == copied.relative_pixels.shape == (200,)


def test_an_exact_copy_is_at_distance_0(world):
    _, train, validation, _ = world
    copied = copies(Pictures(train.embeddings[:9] * 2, train.pixels[:9]), train, validation)
    assert copied.copied.all()
    assert copied.distance == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("spread", [1.0, 0.5, 0.1])
def test_fresh_and_typical_images_are_no_copies(world, spread):
    """Less spread means nearer to every training image, as blur does: nearer than the validation images are."""
    _, train, validation, _ = world
    rng = np.random.default_rng(7)
    copied = copies(pictures(spread * rng.normal(size=(500, HIDDEN)), rng), train, validation)
    assert copied.share <= 0.012
    if spread < 1:
        assert np.median(copied.distance) < np.quantile(copies(validation, train, validation).distance, 0.5)


def test_image_near_to_all_training_images_is_no_copy():
    """Half as spread out as the training images: most are nearer to one than nearly all validation images are."""
    rng = np.random.default_rng(0)
    train, validation, typical = (
        Pictures(values, values)
        for values in (10 * np.eye(64)[0] + s * rng.normal(size=(n, 64)) for n, s in ((500, 1), (300, 1), (300, 0.5)))
    )
    copied, usual = copies(typical, train, validation), copies(validation, train, validation)
    assert np.mean(copied.distance < np.quantile(usual.distance, 0.01)) > 0.8
    assert copied.share <= 0.02


def test_both_the_embedding_and_the_pixels_have_to_be_near(world):
    latent, train, validation, rng = world
    fresh, same = pictures(rng.normal(size=(100, HIDDEN)), rng), pictures(latent[:100], rng)
    for mixed in (Pictures(same.embeddings, fresh.pixels), Pictures(fresh.embeddings, same.pixels)):
        assert copies(mixed, train, validation).share <= 0.02


def test_pixels_are_means_of_cells_without_brightness():
    image = np.random.default_rng(0).integers(0, 100, (1, 64, 96)).astype(np.uint8)
    cells = image.reshape(1, 32, 2, 32, 3).mean(axis=(2, 4)).reshape(1, -1)
    expected = (cells - cells.mean()) / cells.std()
    assert small(image) == pytest.approx(expected, abs=1e-5)
    assert small(2 * image + 50) == pytest.approx(expected, abs=1e-5)
    assert small(np.zeros((2, 50, 20), np.uint8)).shape == (2, 32 * 20)
    assert not small(np.full((1, 50, 20), 7, np.uint8)).any()


def test_training_and_validation_images_have_to_be_there(world):
    _, train, validation, _ = world
    with pytest.raises(ValueError, match=r"At least two training images and one validation image.* got 1 and 300"):
        copies(validation, Pictures(train.embeddings[:1], train.pixels[:1]), validation)


def test_batched_downscaling_equals_single_images():
    images = np.random.default_rng(0).integers(0, 256, (600, 40, 40), dtype=np.uint8)
    rows = [0, 255, 256, 599]
    assert np.array_equal(small(images)[rows], np.concatenate([small(images[row : row + 1]) for row in rows]))


def test_the_share_is_that_of_near_copies():
    each = np.zeros(4)
    assert Copies(each, each, each, each, np.array([True, False, False, False])).share == 0.25
