"""Metrics of a generator's samples: class-wise distance to real images. Light to import.

``cmmd`` is the unbiased squared maximum mean discrepancy (Gretton et al. 2012, "A kernel two-sample test", eq. 3; as
KID, Binkowski et al. 2018, arXiv 1801.01401) of L2-normalised embeddings under a Gaussian kernel, times 1000, as CMMD
(Jayasumana et al. 2024, arXiv 2401.09603). It can be below 0. One thing differs from CMMD: its sigma of 10 on vectors
of length 1 makes the kernel linear in effect, so that only means are compared and a generator that always draws the
typical image looks perfect. Here sigma is the median distance of real training images (:func:`bandwidth`).

``coverage`` is the share of real images with a sample nearer than their k-th nearest real one, within their class
(Naeem et al. 2020, arXiv 2002.09797). It depends on the number of samples: compare it with :func:`real_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lungtune.errors import TrialError, did_you_mean
from lungtune.tasks.generation import METRICS

SCALE = 1000
NEIGHBOURS = 5
"""The k of ``coverage``."""
_LOOKED_AT = 2000
"""At most this many images give the bandwidth."""
_SEED = 20_240_109
"""Of the draws of samples: the same in every call, so that two trials' differences are of the same draws."""


@dataclass(frozen=True)
class Samples:
    """Embeddings of validation images and of samples, as a generator's report stores them.

    Attributes:
        real: ``(N, D)`` of the validation images.
        labels: ``(N,)`` their classes.
        samples: ``(M, D)``.
        drawn: ``(M,)`` the class each sample was drawn for.
        sigma: of the kernel (:func:`bandwidth`).
    """

    real: np.ndarray
    labels: np.ndarray
    samples: np.ndarray
    drawn: np.ndarray
    sigma: float

    def __len__(self) -> int:
        return len(self.labels)

    def scorer(self, groups: np.ndarray) -> SampleScorer:
        """Return a scorer over patients; ``groups`` is each validation image's patient ``(N,)``."""
        return SampleScorer(self, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds."""
        real, samples = self.real.astype(np.float32), self.samples.astype(np.float32)
        tensors = {"real": real, "samples": samples, "sigma": np.array([self.sigma])}
        return tensors | {name: np.asarray(getattr(self, name), np.int64) for name in ("labels", "drawn")}

    def table(self) -> np.ndarray:
        """Return the samples' embeddings, float32 ``(M, D)``."""
        return self.samples.astype(np.float32)

    def with_table(self, table: np.ndarray) -> Samples:
        """Return the samples of another report on the same images."""
        return replace(self, samples=table)

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return an empty string: ``coverage`` measures a generator's omissions."""
        return ""

    def figures(self, title: str, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield nothing: embeddings have no figure; the evaluator draws the samples."""
        yield from ()


class SampleScorer:
    """Scores one set of samples under many weightings of the validation patients.

    Row d of the weights always comes with the same d-th draw of samples with replacement, class by class: a finite
    number of samples is part of what is not known. A row of ones comes with every sample once. No image, sample or
    patient is paired with its own copy in a draw: it would be at distance 0 and pull every draw up. Near the floor the
    draws spread more than they should (the bootstrap of a degenerate U-statistic), so intervals are too wide there.

    Args:
        samples: embeddings and classes.
        groups: patient index ``(N,)`` in 0..P-1.

    Raises:
        TrialError: an embedding is not finite (reason ``nan``).
        ValueError: shapes, classes or sigma are wrong.
    """

    def __init__(self, kept: Samples, groups: np.ndarray) -> None:
        real, samples = _checked(kept)
        labels, drawn = np.asarray(kept.labels), np.asarray(kept.drawn)
        self.patients = int(groups.max()) + 1
        self._images = np.bincount(groups, minlength=self.patients)
        self.classes = int(max(labels.max(), drawn.max())) + 1
        self._parts = [
            _Part(real[labels == k], groups[labels == k], samples[drawn == k], float(kept.sigma))
            for k in range(self.classes)
        ]

    def score(self, metric: object, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` under whole-number patient weights ``(D, P)``.

        A class with fewer than two images or two samples is NaN, and left out of the mean over the classes.

        Args:
            metric: ``cmmd``, ``cmmd_<class index>``, or ``coverage``, for which samples are not drawn: fewer different
                ones would cover less.
            weights: how often each patient is drawn.

        Raises:
            ValueError: the metric is not known.
        """
        whole = (weights == 1).all(axis=1)[:, None]
        return self._mean(metric, weights, lambda drawn: np.where(whole, 1, drawn))

    def outside(self, metric: object, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on the patients, and the samples, that draws ``(D, P)`` leave out."""
        return self._mean(metric, weights == 0, lambda drawn: drawn == 0)

    def cases(self, metric: object) -> np.ndarray:
        """Return how many images each patient has ``(P,)``."""
        return self._images

    def _mean(self, metric: object, weights: np.ndarray, kept: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        known = {*METRICS, *(f"cmmd_{k}" for k in range(self.classes))}
        if metric not in known:
            raise ValueError(f"'{metric}' is not a metric of samples.{did_you_mean(str(metric), known)}")
        one = str(metric).removeprefix("cmmd_")
        parts = {k: part for k, part in enumerate(self._parts) if not one.isdigit() or k == int(one)}
        weights = weights.astype(np.float64)
        if metric == "coverage":
            values = np.stack([part.coverage(weights) for part in parts.values()])
        else:
            values = np.stack([p.distance(weights, kept(p.drawn(len(weights), k))) for k, p in parts.items()])
        there = np.isfinite(values)
        count = there.sum(axis=0)
        return np.where(count > 0, np.where(there, values, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


class _Part:
    """One class: sums of the kernel over pairs of images, by patient; over pairs of an image and a sample; of samples.

    Args:
        real: ``(n, D)``, normalised.
        groups: patient index ``(n,)``.
        samples: ``(m, D)``, normalised.
        sigma: of the kernel.
    """

    def __init__(self, real: np.ndarray, groups: np.ndarray, samples: np.ndarray, sigma: float) -> None:
        self._enough = len(real) > 1 and len(samples) > 1
        self._samples = len(samples)
        if not self._enough:
            return
        order = np.argsort(groups, kind="stable")
        real, groups = real[order], groups[order]
        self._who, starts, self._images = np.unique(groups, return_index=True, return_counts=True)
        squared, across, among = (_squared(*pair) for pair in ((real, real), (real, samples), (samples, samples)))
        kernel, self._among = np.exp(squared / (-2 * sigma**2)), np.exp(among / (-2 * sigma**2))
        np.fill_diagonal(kernel, 0)
        np.fill_diagonal(self._among, 0)
        self._between = np.add.reduceat(np.add.reduceat(kernel, starts, axis=0), starts, axis=1)
        self._within = self._between.diagonal().copy()
        np.fill_diagonal(self._between, 0)
        self._across = np.add.reduceat(np.exp(across / (-2 * sigma**2)), starts, axis=0)
        nearest = min(NEIGHBOURS, len(real) - 1)
        np.fill_diagonal(squared, np.inf)
        radius = np.partition(squared, nearest - 1, axis=1)[:, nearest - 1]
        self._covered = np.add.reduceat((across.min(axis=1) <= radius).astype(np.float64), starts)

    def drawn(self, draws: int, k: int) -> np.ndarray:
        """Return how often each sample is drawn ``(draws, m)``; row d does not depend on ``draws``."""
        count = max(self._samples, 1)
        return np.random.default_rng([_SEED, k]).multinomial(count, np.full(count, 1 / count), size=draws)

    def distance(self, weights: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """Return the unbiased squared MMD times 1000 ``(D,)``; pairs within a patient count once for each copy."""
        if not self._enough:
            return np.full(len(weights), np.nan)
        w, v, n = weights[:, self._who], drawn.astype(np.float64), self._images
        images, samples = w @ n, v.sum(axis=1)
        pairs = images**2 - w**2 @ n**2 + w @ (n * (n - 1))
        real = _ratio(((w @ self._between) * w).sum(axis=1) + w @ self._within, pairs)
        within = _ratio(((v @ self._among) * v).sum(axis=1), samples**2 - (v**2).sum(axis=1))
        both = _ratio(((w @ self._across) * v).sum(axis=1), images * samples)
        result: np.ndarray = SCALE * (real + within - 2 * both)
        return result

    def coverage(self, weights: np.ndarray) -> np.ndarray:
        """Return the share of images ``(D,)`` that have a sample nearer than their k-th nearest image."""
        if not self._enough:
            return np.full(len(weights), np.nan)
        w = weights[:, self._who]
        return _ratio(w @ self._covered, w @ self._images)


def scores(samples: Samples, classes: Sequence[str]) -> dict[str, float]:
    """Score samples: every metric of :data:`METRICS`, ``cmmd_<class>`` of each class that can be scored, all finite.

    Args:
        samples: embeddings and classes.
        classes: the names.

    Raises:
        TrialError: an embedding is not finite (reason ``nan``).
        ValueError: shapes, classes or sigma are wrong, or no class has two images and two samples.
    """
    scorer = samples.scorer(np.arange(len(samples)))
    ones = np.ones((1, scorer.patients), np.int64)
    names = {name: name for name in METRICS} | {f"cmmd_{classes[k]}": f"cmmd_{k}" for k in range(scorer.classes)}
    values = {shown: float(scorer.score(name, ones)[0]) for shown, name in names.items()}
    if np.isnan(values["cmmd"]):
        raise ValueError("A class with at least two validation images and two samples must be there, but none is.")
    return {name: value for name, value in values.items() if not np.isnan(value)}


def real_images(samples: Samples, train: np.ndarray, train_labels: np.ndarray) -> Samples:
    """Return real training images in the place of the samples; their score is that of a perfect generator.

    Args:
        samples: whose samples are replaced, in each class by as many images; by all where a class has fewer.
        train: embeddings of the training images ``(T, D)``.
        train_labels: ``(T,)``.

    Returns:
        The same choice in every call.
    """
    rng = np.random.default_rng(_SEED)
    rows = [np.flatnonzero(train_labels == k) for k in range(int(samples.drawn.max()) + 1)]
    wanted = np.bincount(samples.drawn, minlength=len(rows))
    chosen = np.concatenate([np.sort(rng.permutation(own)[:count]) for own, count in zip(rows, wanted)])
    return replace(samples, samples=train[chosen], drawn=np.asarray(train_labels)[chosen])


def bandwidth(embeddings: np.ndarray) -> float:
    """Return the median distance of two images of ``(T, D)``, L2-normalised: the kernel's sigma for a data set.

    Take the training images, so that it is one number for all trials. More than 2000 are represented by 2000.

    Raises:
        ValueError: there are not two different images, or an embedding is not finite.
    """
    rows = np.random.default_rng(_SEED).permutation(len(embeddings))[:_LOOKED_AT]
    chosen = normalised(embeddings[np.sort(rows)])
    distances = np.sqrt(_squared(chosen, chosen)[np.triu_indices(len(chosen), 1)])
    sigma = float(np.median(distances)) if len(distances) else 0.0
    if not sigma > 0:
        raise ValueError(f"Embeddings of different images must be given, but their median distance is {sigma:g}.")
    return sigma


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """Return embeddings ``(N, D)`` as float64 of length 1."""
    values = np.asarray(embeddings, np.float64)
    result: np.ndarray = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return result


def _squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return squared distances ``(N, M)`` of vectors of length 1."""
    result: np.ndarray = np.maximum(2 - 2 * (one @ other.T), 0)
    return result


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return result


def _checked(kept: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Return normalised images ``(N, D)`` and samples ``(M, D)``."""
    real, samples = np.asarray(kept.real), np.asarray(kept.samples)
    shapes = (real.shape, np.shape(kept.labels), samples.shape, np.shape(kept.drawn))
    fits = real.ndim == samples.ndim == 2 and len(real) and len(samples) and real.shape[1] == samples.shape[1]
    if not fits or shapes[1] != real.shape[:1] or shapes[3] != samples.shape[:1]:
        raise ValueError(f"real (N, D), labels (N,), samples (M, D) and drawn (M,) must hold, but got {shapes}.")
    if not kept.sigma > 0:
        raise ValueError(f"sigma > 0 must hold, but got {kept.sigma}.")
    for name, rows in (("samples", samples), ("validation images", real)):
        if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
            raise TrialError("nan", f"The embeddings of {bad} of {len(rows)} {name} are not finite.")
    return normalised(real), normalised(samples)
