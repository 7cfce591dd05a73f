"""Evaluator of trials with several labels a case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lungtune.tasks.case_evaluator import CaseEvaluator
from lungtune.tasks.multilabel.predictions import LabelProbabilities, plain


class MultiLabelEvaluator(CaseEvaluator):
    """Predictions are ``probabilities`` ``(N, L)``, and ``(N, L)`` under the name of each further head."""

    def scores(self, part: Any, predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """See ``Evaluator.scores``: with ``auroc_<label>``, and ``macro_auroc_<head>`` of further heads."""
        scores = super().scores(part, predicted)
        heads = {head: plain(part["labels"], predicted[head]) for head in self.task.heads}
        return scores | {f"macro_auroc_{head}": each["macro_auroc"] for head, each in heads.items()}

    def kept(self, part: Any, predicted: Mapping[str, np.ndarray]) -> LabelProbabilities:
        """See ``Evaluator.kept``."""
        return LabelProbabilities(np.asarray(part["labels"]), predicted["probabilities"])
