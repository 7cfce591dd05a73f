"""Recognition of samples by a classifier of real images (Shmelkov et al. 2018, arXiv 1807.09499).

A distance can be small although every class is drawn alike. The classifier is a linear probe of the embedder's
embeddings, fitted to the training images; its rate on samples is to be compared with its rate on real images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lungtune.errors import TrialError
from lungtune.tasks.generation import RECOGNISED
from lungtune.tasks.generation.sample_metrics import normalised

_STRENGTH = 100.0  # inverse of the penalty: vectors of length 1 need large coefficients
_STEPS = 2000


class Recogniser:
    """Classifies images by their embeddings.

    Args:
        embeddings: of the training images ``(T, D)``.
        labels: their classes ``(T,)``, two at least.
        classes: the names.
    """

    def __init__(self, embeddings: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> None:
        from sklearn.linear_model import LogisticRegression

        self.classes = tuple(classes)
        probe = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=_STEPS)
        self._probe = probe.fit(normalised(embeddings), labels)

    def shares(self, embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Return the shares of these images that are assigned to their class, in [0, 1].

        Args:
            embeddings: ``(N, D)``.
            labels: the class each shows, or was drawn for ``(N,)``.

        Returns:
            ``recognised_<class>`` of each class that has images, and ``recognised``, their mean.

        Raises:
            TrialError: an embedding is not finite (reason ``nan``).
        """
        known = np.isfinite(embeddings).all(axis=1)
        if not known.all():
            raise TrialError("nan", f"The embeddings of {(~known).sum()} of {len(known)} images are not finite.")
        right = self._probe.predict(normalised(embeddings)) == labels
        there = [(k, name) for k, name in enumerate(self.classes) if (labels == k).any()]
        shares = {f"{RECOGNISED}_{name}": float(right[labels == k].mean()) for k, name in there}
        return {RECOGNISED: float(np.mean(list(shares.values())))} | shares
