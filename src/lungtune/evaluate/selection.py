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

from lungtune.evaluate.bootstrap import Interval, Metric, Scorer, _interval, draw, groups_of
from lungtune.evaluate.metrics import DIRECTIONS


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
    if not len(probabilities):
        raise ValueError("At least one candidate must be given.")
    sign = 1 if (mode or DIRECTIONS.get(metric if isinstance(metric, str) else "", "max")) == "max" else -1
    groups = groups_of(patients, len(labels))
    count = int(groups.max()) + 1
    if count < 2:
        raise ValueError("At least two patients must be given, but got one.")
    drawn = draw(count, draws, seed)
    drawn = drawn[(drawn == 0).any(axis=1)]  # a draw of everyone leaves no one to score on
    left_out = (drawn == 0).astype(drawn.dtype)
    chosen_by, scored = np.empty((len(probabilities), len(drawn))), np.empty((len(probabilities), len(drawn)))
    for row, table in enumerate(probabilities):
        scorer = Scorer(labels, table, groups)
        chosen_by[row], scored[row] = scorer.score(metric, drawn), scorer.score(metric, left_out)
    best = np.where(np.isnan(chosen_by), -np.inf, sign * chosen_by).argmax(axis=0)
    outside = scored[best, np.arange(len(drawn))]
    return _interval(np.nanmean(outside), outside, count, level)
