"""Comparison arms: the recipe trained with each value of one parameter, against a control.

The recipe's own runs are its value's. Of three seeds or more the searched one is left out of all values: its score was
selected with one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import recipe
from lungtune.core.comparison import Comparison, shown
from lungtune.core.space import SearchSpace
from lungtune.errors import TrialError
from lungtune.report import ablation_report
from lungtune.retraining import runs

if TYPE_CHECKING:
    from lungtune.core.family import Family
    from lungtune.core.task import Task
    from lungtune.data.dataset import Part
    from lungtune.engine.session import Session

OTHERS = 2
"""Number of further seeds from which on the searched one is left out."""


def compared_seeds(seeds: int) -> int:
    """Return how many of a recipe's ``seeds`` are compared."""
    return seeds - 1 if seeds > OTHERS else seeds


class Arms:
    """A recipe's runs with every value of one parameter.

    Args:
        session: trains them; no trial may be in.
        family: the recipe's family.
        space: the recipe; its objective decides.
        compared: the parameter and its values.
        own: the recipe's own runs; the first is the searched one. They are trained before :meth:`train`.
        origin: the recipe's provenance.
        work: folder of checkpoints; each value has its own, named by a hash of everything its weights depend on.
        predict: fills in a run's predictions of the test part.
    """

    def __init__(
        self,
        session: Session,
        family: Family[Any, Any],
        space: SearchSpace,
        compared: Comparison,
        own: list[runs.Run],
        origin: recipe.Provenance,
        work: Path,
        predict: Callable[[runs.Run, Part], None],
    ) -> None:
        self._session, self._family, self._space, self._predict = session, family, space, predict
        self._task, self._fidelity = family.task(space.objective.task), origin.fidelity
        self.compared = compared
        self.searched = own[0].seed
        self.left_out = compared_seeds(len(own)) < len(own)
        mine = own[1:] if self.left_out else own
        self.arms: dict[Any, list[runs.Run]] = {}
        number = 0
        for value in compared.values:
            changed = {compared.axis: value}
            arm = space.with_params(changed)
            folder = work / recipe.fingerprint(arm, origin.fidelity, origin.split, origin.bank)
            self.arms[value] = mine if value == compared.own else []
            for run in mine if value != compared.own else ():
                self.arms[value].append(runs.Run(run.seed, folder / str(run.seed), number, changed))
                number += 1

    @property
    def others(self) -> list[runs.Run]:
        """The runs with other values than the recipe's."""
        return [run for value in self.compared.others for run in self.arms[value]]

    def train(self) -> None:
        """Train the other values like the recipe; resumes from existing checkpoints."""
        listed = f"comparing {self.compared.axis}, {len(self.others)} more trainings"
        runs.train(self._session, self._space, self.others, self._fidelity, listed)

    def content(self, edited: bool) -> dict[str, Any]:
        """Return the report content while the test set is locked.

        Args:
            edited: the recipe was changed after its export.

        Returns:
            JSON-able: ``axis``, ``control``, ``recipe_value``, ``metric``, ``left_out`` (a seed, or null), ``runs``
            [{value, seed, score, failure, test}], ``notes``; ``validation``, ``test``: comparisons
            (:func:`lungtune.report.ablation_report.part`), the second null; ``confirmed``: a sentence.
        """
        content = {
            "axis": self.compared.axis,
            "control": self.compared.control,
            "recipe_value": self.compared.own,
            "metric": self._space.objective.metric,
            "left_out": self.searched if self.left_out else None,
            "validation": self._part(self._session.dataset.validation, "prediction"),
            "test": None,
            "confirmed": "",
        }
        return content | self._rows(edited)

    def score(self, part: Part, content: dict[str, Any], edited: bool) -> None:
        """Score all values on the opened test part; ``own`` were scored on it before. Fills in ``content``."""
        scores: dict[int, float | None] = {}
        others = {id(run) for run in self.others}
        for run in (run for each in self.arms.values() for run in each if run.failure is None):
            if id(run) in others:
                self._predict(run, part)
            try:
                scores[id(run)] = self._score(part, run)
            except TrialError as error:  # an error here leaves the other models' scores
                run.failure, run.tested = f"on the test set: {error}", {}
        content["test"] = self._part(part, "tested")
        content["confirmed"] = ablation_report.confirmed(self.compared, content["validation"], content["test"])
        content |= self._rows(edited, scores)

    def _score(self, part: Part, run: runs.Run) -> float | None:
        """Return the objective on the test part; what can't be scored for any task of the family raises."""
        evaluators = self._session.evaluators
        scores = {name: evaluators[name].scores(part, predicted) for name, predicted in run.tested.items()}
        return scores[self._task.name].get(self._space.objective.own)

    def _part(self, part: Part, what: str) -> dict[str, Any]:
        objective, names = self._space.objective, self._task.scorer_names(self._session.dataset.classes)
        prefix = f"{self._task.by_class}_"
        of_classes = {shown: name for shown, name in names.items() if shown not in self._task.metrics}
        by_class = {shown.removeprefix(prefix): name for shown, name in of_classes.items()}
        measures = {
            self._family.metric_key(task, metric): (metric, self._kept(task, part, what))
            for task in self._family.tasks
            if task is not self._task
            for metric in task.principal
            if metric in task.metrics
        }
        return ablation_report.part(
            part.patients,
            self.compared,
            self._kept(self._task, part, what),
            objective,
            by_class=by_class,
            by_class_mode=self._task.by_class_mode,
            measures=measures,
            unit=part.unit,
        )

    def _kept(self, task: Task, part: Part, what: str) -> ablation_report.Arms:
        evaluator = self._session.evaluators[task.name]
        return {
            value: {run.seed: evaluator.kept(part, getattr(run, what)[task.name]) for run in each if getattr(run, what)}
            for value, each in self.arms.items()
        }

    def _rows(self, edited: bool, scores: dict[int, float | None] | None = None) -> dict[str, Any]:
        failed = [(value, run.seed) for value, each in self.arms.items() for run in each if run.failure is not None]
        rows = [
            {
                "value": value,
                "seed": run.seed,
                "score": run.value,
                "failure": run.failure,
                "test": (scores or {}).get(id(run)),
            }
            for value, each in self.arms.items()
            for run in each
        ]
        notes = ablation_report.notes(self.compared, self.searched, self.left_out, edited, failed)
        values = [each.params[self.compared.axis] for each in self._space.segments]
        if any(value != self.compared.own for value in values):
            sequence = ", then ".join(shown(value) for value in (*values, self.compared.own))
            notes = [
                *notes,
                f"The recipe's own runs have {self.compared.axis} {sequence}; all others one value throughout.",
            ]
        return {"runs": rows, "notes": notes}
