"""Simulated embeddings of real images and of a generator's samples."""

import numpy as np

from lungtune.tasks.generation.sample_metrics import Samples, bandwidth, normalised

CLASSES = ("normal", "bacterial", "viral")
DIMENSIONS = 8


def images(rng, count, shift=0.0, spread=1.0):
    """``count`` unit vectors around one direction; ``shift`` moves it, ``spread`` 0 leaves the typical image only."""
    values = spread * rng.normal(size=(count, DIMENSIONS))
    values[:, 0] += 2
    values[:, 1] += shift
    return normalised(values)


SIGMA = bandwidth(images(np.random.default_rng(99), 2000))


def samples_of(seed, real=60, samples=45, shift=0.0, spread=1.0, classes=1, noise=None):
    """``noise`` is the seed of the samples' randomness: two generators may share it."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng([seed, 1] if noise is None else noise)
    result = images(rng, real), np.arange(real) % classes, images(own, samples, shift, spread)
    return Samples(*result, np.arange(samples) % classes, SIGMA)
