"""Evaluator of tasks with case-wise predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lungtune.core.task import Evaluator, Predictions
from lungtune.errors import TrialError
from lungtune.stats import bootstrap
from lungtune.stats.case_metrics import CaseMeasures


class CaseEvaluator(Evaluator):
    """Predicts with one forward pass for all tasks of a family (``Pack.predict``); keeps measures of each case.

    As it is, it serves tasks whose ``predict`` returns one number ``(N,)`` for each metric, NaN where a case has none.
    Other tasks override :meth:`kept`; its scorer then gives the scores.
    """

    def predict(self, pack: Any, slot: int, part: Any) -> dict[str, np.ndarray]:
        """See ``Evaluator.predict``: the task's own of all that the family predicts."""
        predictions = pack.predict(part, slots=[slot])[slot]
        return {name: np.asarray(predictions[name]) for name in self.task.predicted}

    def kept(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Predictions:
        """See ``Evaluator.kept``."""
        return CaseMeasures({name: np.asarray(predicted[name]) for name in self.task.metrics})

    def scores(self, part: Any, predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See ``Evaluator.scores``."""
        infinite = [name for name, values in predicted.items() if np.isinf(values).any()]
        if infinite:
            raise TrialError("nan", f"The predictions of {', '.join(infinite)} are not finite.")
        kept = self.kept(part, predicted)
        scorer = kept.scorer(np.arange(len(kept)))
        names = self.task.scorer_names(self.dataset.classes)
        scores = {shown: bootstrap.plain(scorer, name) for shown, name in names.items()}
        return {name: value for name, value in scores.items() if not math.isnan(value)}
