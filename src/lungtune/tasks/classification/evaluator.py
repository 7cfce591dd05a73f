"""Evaluator of classifying trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lungtune.tasks.case_evaluator import CaseEvaluator
from lungtune.tasks.classification import metrics
from lungtune.tasks.classification.predictions import Probabilities


class ClassificationEvaluator(CaseEvaluator):
    """Predictions are ``probabilities`` ``(N, C)``, and ``(N, C)`` under the name of each further head."""

    def scores(self, part: Any, predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See ``Evaluator.scores``: with ``recall_<class>``, and ``macro_f1_<head>`` of further heads."""
        classes, labels = self.dataset.classes, part["label"]
        scores = metrics.classification(labels, predicted["probabilities"], classes)
        for head in self.task.heads:
            scores[f"macro_f1_{head}"] = metrics.classification(labels, predicted[head], classes)["macro_f1"]
        return scores

    def kept(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Probabilities:
        """See ``Evaluator.kept``."""
        return Probabilities(np.asarray(part["label"]), predicted["probabilities"])
