"""What a report keeps so that it can be scored again, on drawn patients and beside other reports.

A classifier's is its class probabilities (:class:`Probabilities`), a generator's the embeddings of its samples
(:class:`lungtune.tasks.generation.sample_metrics.Samples`). Which one it is, is told by what the checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from lungtune.stats import bootstrap
from lungtune.tasks.classification import metrics
from lungtune.tasks.generation.sample_metrics import Samples

CLASSIFICATION = ("labels", "probabilities")
GENERATION = ("real", "labels", "samples", "drawn", "sigma")


class Evidence(Protocol):
    """What a report keeps. ``labels (N,)`` are the validation cases', in the order of the data set."""

    @property
    def labels(self) -> np.ndarray:
        """The classes of the validation cases ``(N,)``."""

    def scorer(self, groups: np.ndarray) -> bootstrap.Scoring:
        """Return what scores this on drawn patients; ``groups`` is each case's patient ``(N,)`` in 0..P-1."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds of this; :func:`of` reads it."""

    def table(self) -> np.ndarray:
        """Return what stays beside the checkpoint, as ``<checkpoint>.npy``, when that is pruned."""

    def with_table(self, table: np.ndarray) -> Evidence:
        """Return the evidence of another report on the same cases, of what :meth:`table` kept of it."""

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return the sentence that says a model has collapsed; empty when it has not."""


@dataclass(frozen=True)
class Probabilities:
    """What a report of a classifier keeps: ``labels (N,)`` and ``probabilities (N, C)`` of the validation cases."""

    labels: np.ndarray
    probabilities: np.ndarray

    def scorer(self, groups: np.ndarray) -> bootstrap.Scorer:
        """Return what scores these probabilities on drawn patients; ``groups`` is each case's patient ``(N,)``."""
        return bootstrap.Scorer(self.labels, self.probabilities, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds of this."""
        return {"labels": self.labels, "probabilities": self.probabilities}

    def table(self) -> np.ndarray:
        """Return what stays of a report when its checkpoint is pruned: the probabilities."""
        return self.probabilities.astype(np.float32)

    def with_table(self, table: np.ndarray) -> Probabilities:
        """Return the evidence of another report on the same cases, of what :meth:`table` kept of it."""
        return replace(self, probabilities=table)

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return the sentence that says the model has collapsed; empty when it has not."""
        return metrics.collapse_sentence(self.probabilities, classes)


def of(tensors: Mapping[str, Any]) -> Evidence | None:
    """Return the evidence among a checkpoint's tensors, None if there is none; :meth:`Evidence.tensors` undone."""
    held = {name: np.asarray(tensors[name]) for name in {*CLASSIFICATION, *GENERATION} & set(tensors)}
    if held.keys() >= set(CLASSIFICATION):
        return Probabilities(**{name: held[name] for name in CLASSIFICATION})
    if held.keys() >= set(GENERATION):
        return Samples(*(held[name] for name in GENERATION[:-1]), sigma=float(held["sigma"].reshape(-1)[0]))
    return None


def load(path: Path) -> Evidence | None:
    """Return the evidence in a checkpoint file, None if the file is gone, damaged or holds none."""
    try:
        with safe_open(path, framework="np") as file:
            names = {*CLASSIFICATION, *GENERATION} & set(file.keys())
            return of({name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError):
        return None
