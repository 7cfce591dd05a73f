"""Evaluation of a session's trials for all tasks of its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lungtune.core.contract import wrong
from lungtune.core.family import Family
from lungtune.core.io import stage
from lungtune.core.task import Evaluator, Predictions
from lungtune.core.trial import Objective
from lungtune.data.dataset import Dataset, Part
from lungtune.engine.pack import Pack

Predicted = Mapping[str, Mapping[str, np.ndarray]]
"""Predictions of a trial on one data part: task -> name -> ``(N, ...)``."""


class Evaluation:
    """Evaluators of a session's trials, one per task of the family.

    Args:
        family: the trials' family.
        base: its ``Base``.
        dataset: what the trials train and validate on.
        device: the session's device.
        objective: what the trials are compared by.

    Attributes:
        evaluators: task name -> evaluator.

    Raises:
        ContractError: a task's ``evaluator`` returns something else.
    """

    def __init__(
        self, family: Family[Any, Any], base: Any, dataset: Dataset, device: torch.device, objective: Objective
    ) -> None:
        self.family = family
        self.objective = objective
        self.evaluators: dict[str, Evaluator] = {}
        for task in family.tasks:
            evaluator = task.evaluator(family, base, dataset, device)
            if not isinstance(evaluator, Evaluator):
                raise wrong(task.evaluator, "a lungtune.core.task.Evaluator", repr(evaluator))
            self.evaluators[task.name] = evaluator

    def predict(self, pack: Pack, slot: int, part: Part) -> dict[str, dict[str, np.ndarray]]:
        """Return the predictions of the trial in a slot, by task and name, with its weights as they are.

        Those of the objective's task are as they count for it (``Task.for_objective``).
        """
        with stage(f"Evaluating on {len(part):,} cases"):
            predictions = {name: evaluator.predict(pack, slot, part) for name, evaluator in self.evaluators.items()}
        name = self.objective.task
        return {**predictions, name: dict(self.family.task(name).for_objective(part, predictions[name]))}

    def scores(self, part: Part, predicted: Predicted) -> dict[str, float]:
        """Return all metrics of all tasks by their names in reports (``Family.metric_key``), all finite.

        Raises:
            TrialError: the trial has diverged.
        """
        scores: dict[str, float] = {}
        for task in self.family.tasks:
            for name, value in self.evaluators[task.name].scores(part, predicted[task.name]).items():
                scores[self.family.metric_key(task, name)] = value
        return scores

    def kept(self, part: Part, predicted: Predicted) -> Predictions:
        """Return what checkpoints keep: the predictions of the objective's task."""
        return self.evaluators[self.objective.task].kept(part, predicted[self.objective.task])

    def picture(self, predicted: Predicted) -> bytes | None:
        """Return a PNG to look at, of the first task that has one."""
        pictures = (evaluator.picture(predicted[name]) for name, evaluator in self.evaluators.items())
        return next((picture for picture in pictures if picture is not None), None)

    def references(self, pack: Pack, params: Any) -> dict[str, dict[str, float]]:
        """Return the reference scores on validation; the pack must be empty."""
        references: dict[str, dict[str, float]] = {}
        for evaluator in self.evaluators.values():
            for name, scores in evaluator.references(pack, params).items():
                references.setdefault(name, {}).update(scores)
        return references
