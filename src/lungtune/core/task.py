"""Interface of tasks. A task is a folder ``lungtune/tasks/<name>/`` or a user's own.

A family lists its tasks (``Family.tasks``); the default objective is the first metric of the first task. The journal
stores the objective's task, and all task-dependent behaviour is a method of it: no code branches on names or types.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lungtune.core.fields import Field

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Attributes:
        mode: ``max`` or ``min``: which direction is better.
        help: what it measures, with its range or unit.
    """

    mode: str
    help: str

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is: a difference times it is positive where it is a gain."""
        return 1 if self.mode == "max" else -1


class Scorer(Protocol):
    """Scores one report under many weightings of the patients (:mod:`lungtune.stats.bootstrap`)."""

    patients: int

    def score(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` under whole-number patient weights ``(D, P)``; a row of ones gives it plain."""

    def outside(self, metric: Any, weights: np.ndarray) -> np.ndarray:
        """Return the metric ``(D,)`` on the patients that draws ``(D, P)`` leave out."""

    def cases(self, metric: Any) -> np.ndarray:
        """Return how many cases of each patient the metric is over, int ``(P,)``."""


class Predictions(Protocol):
    """A trial's predictions on N validation cases, as stored by a report and rescored on patient draws."""

    def __len__(self) -> int:
        """Return the number of cases N."""

    def scorer(self, groups: np.ndarray) -> Scorer:
        """Return a scorer over patients; ``groups`` is each case's patient ``(N,)`` in 0..P-1."""

    def tensors(self) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds of this; ``Task.predictions`` reads it back."""

    def table(self) -> np.ndarray:
        """Return the table kept as ``<checkpoint>.npy`` when the checkpoint is pruned."""

    def with_table(self, table: np.ndarray) -> Predictions:
        """Return the predictions of another report on the same cases, from what :meth:`table` kept of it."""

    def collapsed(self, classes: Sequence[str]) -> str:
        """Return a warning sentence if the model has collapsed, else an empty string."""

    def figures(self, title: str, classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (file name, PNG) of figures drawn from this."""


class Evaluator(ABC):
    """Scores the trials of one session for one task.

    Args:
        task: the task.
        family: the trials' family.
        base: its ``Base``.
        dataset: what the trials train and validate on (:class:`lungtune.data.dataset.Dataset`).
        device: the session's torch device.
    """

    def __init__(self, task: Any, family: Any, base: Any, dataset: Any, device: torch.device) -> None:
        self.task = task
        self.family = family
        self.base = base
        self.dataset = dataset
        self.device = device

    @abstractmethod
    def predict(self, pack: Any, slot: int, part: Any) -> dict[str, np.ndarray]:
        """Return the predictions of the trial in ``slot`` on a part of the data, with its weights as they are."""

    @abstractmethod
    def scores(self, part: Any, predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Return all metrics of what :meth:`predict` returned, all finite; metrics no case allows are left out.

        Raises:
            TrialError: the trial has diverged.
        """

    @abstractmethod
    def kept(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Predictions:
        """Return what is kept of it in checkpoints."""

    def picture(self, predicted: Mapping[str, np.ndarray]) -> bytes | None:
        """Return an illustrative PNG; None where the task has none."""
        return None

    def references(self, pack: Any, params: Any) -> dict[str, dict[str, float]]:
        """Return model-based reference scores on validation, by name of the reference.

        Args:
            pack: with room for one trial.
            params: a trial's ``Params``, as it starts.
        """
        return {}


class Task(ABC):
    """One kind of task. Instances are cheap and hold options only; heavy imports stay inside methods.

    Attributes:
        name: folder name; the first half of a metric's full name, such as ``segmentation.dice``.
        metrics: metric name -> :class:`Metric`; the first is the default objective.
        targets: fields that the loss and the scores compare with.
        compared: names of the targets that :meth:`predict` needs (a Dice of each case is taken where masks are at
            hand); the others are never shown to a model that is evaluated.
        predicted: names of what :meth:`predict` returns.
        headline: metrics that tables show in addition to the objective.
        by_class: prefix of the metrics that reports carry per class (``recall`` of ``recall_<class>``); empty without.
        by_class_mode: ``max`` or ``min``: which direction of those is better.
        shown: file names of the figures that :meth:`Predictions.figures` yields, then ``picture``, in this order.
        picture: file name of the evaluator's picture, where it draws one.
        replaces: of a shipped task: name of the one that it takes the place of, in families that have that, where data
            lack that one's targets and have this one's; empty: of none.
        Params: frozen dataclass of the parameters that families get with it where it replaces a task; None: of none.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, Metric]]
    targets: ClassVar[tuple[Field, ...]]
    compared: ClassVar[tuple[str, ...]] = ()
    predicted: tuple[str, ...] = ()
    headline: ClassVar[tuple[str, ...]] = ()
    by_class: ClassVar[str] = ""
    by_class_mode: ClassVar[str] = "max"
    shown: ClassVar[tuple[str, ...]] = ()
    picture: ClassVar[str] = ""
    replaces: ClassVar[str] = ""
    Params: ClassVar[type | None] = None

    @classmethod
    def replacing(cls, task: Task) -> Task:
        """Return the instance of this class that takes the place of ``task``, which is the one it ``replaces``."""
        return cls()

    @classmethod
    def axes(cls, traits: Collection[str] | None = None) -> Mapping[str, Sequence[Any]]:
        """Return the choices of those of its ``Params`` that a search over data with these ``traits`` varies.

        Args:
            traits: kinds of fields that the data have, and ``uncertain`` where a label is uncertain; None: all.
        """
        return {}

    def constants(self, train: Any) -> Mapping[str, np.ndarray]:
        """Return the statistics of the training part that the loss needs, by name: ``layout.constants``."""
        return {}

    def remarks(self, dataset: Any) -> Sequence[str]:
        """Return sentences on limits of the scores on these data, shown when a study is begun."""
        return ()

    @abstractmethod
    def loss(self, outputs: Mapping[str, torch.Tensor], batch: Any, layout: Any) -> torch.Tensor:
        """Return each row's loss ``(N,)``, float32.

        Args:
            outputs: what ``Family.outputs`` returned.
            batch: a :class:`lungtune.inputs.batch.Batch` with the task's targets and ``weights`` ``(N,)``.
            layout: which rows belong to which trial, and each trial's ``Params``.
        """

    @abstractmethod
    def predict(self, outputs: Mapping[str, torch.Tensor], batch: Any) -> Mapping[str, torch.Tensor]:
        """Return what is kept of each row: tensors ``(N, ...)`` by name, names of no other task's."""

    @abstractmethod
    def evaluator(self, family: Any, base: Any, dataset: Any, device: torch.device) -> Evaluator:
        """Return the evaluator of one session's trials."""

    @abstractmethod
    def predictions(self, tensors: Mapping[str, np.ndarray]) -> Predictions | None:
        """Return the predictions among a checkpoint's tensors; None when they are not there."""

    def for_objective(self, part: Any, predicted: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the predictions that are scored where a metric of this task is the objective.

        A trial that trains nothing for the task has no predictions, but needs a score for comparison. By default the
        predictions unchanged.

        Args:
            part: the cases.
            predicted: what ``Evaluator.predict`` returned.
        """
        return predicted

    def scorer_names(self, classes: Sequence[str]) -> dict[str, str]:
        """Return the metrics that reports carry with an interval: name in a report -> name for the scorer.

        Scorers name the metrics of a class by its index.
        """
        names = {name: name for name in self.metrics}
        prefix = f"{self.by_class}_"
        return names | ({prefix + name: f"{prefix}{k}" for k, name in enumerate(classes)} if self.by_class else {})

    @property
    def principal(self) -> tuple[str, ...]:
        """The default objective and the headline metrics, each once."""
        return tuple(dict.fromkeys((next(iter(self.metrics)), *self.headline)))

    def baselines(self, dataset: Any, part: Any = None) -> dict[str, dict[str, float]]:
        """Return scores of uninformed models by name; those on validation are journalled before any trial.

        Args:
            dataset: what the trials train on.
            part: the cases that are scored; by default validation.
        """
        return {}

    def retraining(self) -> type | None:
        """Return the class that retrains recipes with this objective, a ``lungtune.retraining.frame.Retraining``.

        None stands for that class itself, which reports all metrics with patient intervals next to the baselines.
        """
        return None

    def tolerance(self, score: float, cases: int) -> float:
        """Return the largest difference between retrained and searched score that counts as reproduced."""
        return max(0.01, 2 / cases)

    def next_commands(self, recipe: str) -> list[tuple[str, str]]:
        """Return (command, what it does) that make sense after ``retrain`` of a recipe file."""
        return []

    def summary_lines(self, best: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return lines for the end of a search's output, in addition to the objective.

        Args:
            best: the best trial's metrics.
            baselines: metrics of each reference, by name.
        """
        return []
