"""Case-wise metrics such as Dice: means over the cases that define them, and predictions that consist of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtune.stats import bootstrap
from lungtune.stats.bootstrap import CaseMeans, Interval, groups_of


@dataclass(frozen=True)
class CaseMeasures:
    """Predictions that consist of case-wise metrics, as a report stores them.

    Attributes:
        values: name -> float ``(N,)``, NaN where a case has no value; all of one length.
    """

    values: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def scorer(self, groups: np.ndarray) -> CaseMeans:
        """Return a scorer over patients; ``groups`` is each case's patient ``(N,)``."""
        return CaseMeans(self.values, groups)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds: the measures, float32."""
        return {name: np.asarray(each, np.float32) for name, each in self.values.items()}

    def table(self) -> np.ndarray:
        """Return the measures as columns, float32 ``(N, measures)``."""
        return np.stack([np.asarray(each, np.float32) for each in self.values.values()], axis=1)

    def with_table(self, table: np.ndarray) -> CaseMeasures:
        """Return the measures of another report on the same cases."""
        return CaseMeasures({name: table[:, k] for k, name in enumerate(self.values)})

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return an empty string: a collapse can't be detected from measures."""
        return ""

    def figures(self, title: str, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield nothing."""
        yield from ()


def mean(
    values: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of a case-wise measure with its interval over the patients that have one.

    Sensitivity and specificity are such means too: of hits, NaN for cases outside their denominator.

    Args:
        values: ``(N,)``, NaN where a case has no value.
        patients: an id per case ``(N,)``.

    Returns:
        All NaN when no case has a value; no bounds when only one patient has.

    Raises:
        ValueError: shapes are wrong, or a value is infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"A measure must be (N,), but got {values.shape}.")
    ids, has = np.asarray(patients), ~np.isnan(values)
    groups = groups_of(ids, len(values))
    if has.any():  # only patients with a value are drawn
        values, groups = values[has], groups_of(ids[has], int(has.sum()))
    return bootstrap.scored(CaseMeans({"measure": values}, groups), "measure", draws, seed, level)


def difference(
    first: np.ndarray,
    second: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the mean of ``first - second`` over the cases where both have a value, with its interval over patients.

    Args as in :func:`mean`.
    """
    return mean(np.asarray(first, np.float64) - np.asarray(second, np.float64), patients, draws, seed, level)
