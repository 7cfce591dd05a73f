"""Score of the best of many reports, corrected for selection.

Bootstrap bias correction (Tsamardinos, Greasidou, Borboudakis 2018, "Bootstrapping the out-of-sample predictions for
efficient and accurate cross-validation", Machine Learning 107): patients are drawn with replacement, the best
candidate is chosen on the drawn ones and scored on those left out. No model is trained again. A candidate is whatever
the score's maximum was taken over: every report of every trial, not each trial's best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lungtune.core.task import Predictions
from lungtune.stats.bootstrap import Interval, draw, groups_of, percentiles


def expected(
    candidates: Sequence[Predictions],
    patients: Sequence[Any] | np.ndarray,
    metric: Any,
    mode: str = "max",
    draws: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the expected score of the best of several candidates on new patients.

    Samples of a generator are drawn and left out with the patients: a report may be the best by the luck of either.

    Args:
        candidates: predictions on the same N cases.
        patients: an id per case ``(N,)``.
        metric: metric of the selection and of the score, as the scorers name it.
        mode: ``max`` or ``min``.

    Returns:
        The mean score of the chosen candidate on left-out patients, and the percentile interval of those scores. About
        37 % of the patients are left out in a draw, so the interval is wider than one over all patients.

    Raises:
        ValueError: there is no candidate, shapes are wrong, the metric is not known, or there is one patient only.
    """
    if not len(candidates):
        raise ValueError("At least one candidate must be given.")
    sign = 1 if mode == "max" else -1
    groups = groups_of(patients, len(candidates[0]))
    count = int(groups.max()) + 1
    if count < 2:
        raise ValueError("At least two patients must be given, but got one.")
    drawn = draw(count, draws, seed)
    drawn = drawn[(drawn == 0).any(axis=1)]  # a draw of everyone leaves no one to score on
    chosen_by, outside = np.empty((len(candidates), len(drawn))), np.empty((len(candidates), len(drawn)))
    for row, each in enumerate(candidates):
        scorer = each.scorer(groups)
        chosen_by[row], outside[row] = scorer.score(metric, drawn), scorer.outside(metric, drawn)
    best = np.where(np.isnan(chosen_by), -np.inf, sign * chosen_by).argmax(axis=0)
    scores = outside[best, np.arange(len(drawn))]
    known = scores[~np.isnan(scores)]
    return percentiles(known.mean() if len(known) else np.nan, scores, count, level)
