"""The best of many reports looks better than it is: the winner's curse, measured and taken off.

Bootstrap bias correction (Tsamardinos, Greasidou, Borboudakis 2018, "Bootstrapping the out-of-sample predictions for
efficient and accurate cross-validation", Machine Learning 107): patients are drawn with replacement, the best
candidate is chosen on the drawn ones and scored on those left out. No model is trained again. A candidate is whatever
the score's maximum was taken over: every report of every trial, not each trial's best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lungtune.core import objectives
from lungtune.stats.bootstrap import Interval, Metric, _interval, draw, groups_of
from lungtune.tasks.stored_predictions import Evidence, Probabilities


def corrected(
    labels: np.ndarray,
    probabilities: Sequence[np.ndarray],
    patients: Sequence[Any] | np.ndarray,
    metric: Metric = "macro_f1",
    draws: int = 500,
    seed: int = 0,
    level: float = 0.95,
    mode: str | None = None,
) -> Interval:
    """Return what the best of several candidates can be expected to score on new patients.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: one ``(N, C)`` per candidate, on the same cases.
        patients: an id per case ``(N,)``.
        metric: what the choice is made by and the score is given in.
        mode: ``max`` or ``min``; by default the metric's own direction.

    Returns:
        The mean score of the chosen candidate on left-out patients, and the percentile interval of those scores. About
        37 % of the patients are left out in a draw, so the interval is wider than one over all patients.

    Raises:
        ValueError: no candidate is given, shapes are wrong, the metric is not known, or there is one patient only.
    """
    candidates = [Probabilities(labels, table) for table in probabilities]
    return expected(candidates, patients, metric, draws, seed, level, mode)


def expected(
    candidates: Sequence[Evidence],
    patients: Sequence[Any] | np.ndarray,
    metric: Metric = "macro_f1",
    draws: int = 500,
    seed: int = 0,
    level: float = 0.95,
    mode: str | None = None,
) -> Interval:
    """Return :func:`corrected` of reports of any kind, on the same cases.

    Of a generator, samples are drawn and left out with the patients: a report may be the best by the luck of either.
    """
    if not len(candidates):
        raise ValueError("At least one candidate must be given.")
    sign = 1 if (mode or objectives.direction(metric)) == "max" else -1
    groups = groups_of(patients, len(candidates[0].labels))
    count = int(groups.max()) + 1
    if count < 2:
        raise ValueError("At least two patients must be given, but got one.")
    drawn = draw(count, draws, seed)
    drawn = drawn[(drawn == 0).any(axis=1)]  # a draw of everyone leaves no one to score on
    chosen_by, scored = np.empty((len(candidates), len(drawn))), np.empty((len(candidates), len(drawn)))
    for row, each in enumerate(candidates):
        scorer = each.scorer(groups)
        chosen_by[row], scored[row] = scorer.score(metric, drawn), scorer.outside(metric, drawn)
    best = np.where(np.isnan(chosen_by), -np.inf, sign * chosen_by).argmax(axis=0)
    outside = scored[best, np.arange(len(drawn))]
    return _interval(np.nanmean(outside), outside, count, level)
