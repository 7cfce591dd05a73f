"""Does a parameter help, and at which value? The same recipe with other values of it, held against a control.

The recipe's own runs are its value's. Of three seeds or more the searched one is left out of all values: its score was
selected with one of them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import recipe
from lungtune.core.comparison import Comparison
from lungtune.core.space import SearchSpace
from lungtune.errors import TrialError
from lungtune.retrain import runs
from lungtune.stats import ablation_report
from lungtune.tasks.classification import metrics

if TYPE_CHECKING:
    from lungtune.data.dataset import Part
    from lungtune.engine.session import Session

OTHERS = 2
"""With so many seeds beside the searched one, that one is left out."""


def compared_seeds(seeds: int) -> int:
    """Return how many of a recipe's ``seeds`` are compared."""
    return seeds - 1 if seeds > OTHERS else seeds


class Arms:
    """A recipe's runs with every value of one parameter.

    Args:
        session: trains them; no trial may be in.
        space: the recipe.
        compared: the parameter and its values.
        own: the recipe's own runs; the first is the searched one. They are trained before :meth:`train`.
        origin: the recipe's provenance.
        work: folder of checkpoints; each value has its own, named by all that decides its weights.
    """

    def __init__(
        self,
        session: Session,
        space: SearchSpace,
        compared: Comparison,
        own: list[runs.Run],
        origin: recipe.Provenance,
        work: Path,
    ) -> None:
        self._session, self._space, self._fidelity = session, space, origin.fidelity
        self.compared = compared
        self.searched = own[0].seed
        self.left_out = compared_seeds(len(own)) < len(own)
        mine = own[1:] if self.left_out else own
        self.arms: dict[Any, list[runs.Run]] = {}
        number = 0
        for value in compared.values:
            changed = {compared.axis: value}
            made = dataclasses.replace(space, fixed={**space.fixed, **changed})
            folder = work / recipe.fingerprint(made, origin.fidelity, origin.split, origin.bank)
            self.arms[value] = mine if value == compared.own else []
            for run in mine if value != compared.own else ():
                self.arms[value].append(runs.Run(run.seed, folder / str(run.seed), number, changed))
                number += 1

    @property
    def others(self) -> list[runs.Run]:
        """The runs with other values than the recipe's."""
        return [run for value in self.compared.others for run in self.arms[value]]

    def train(self) -> None:
        """Train the other values, as the recipe was; what is trained already goes on from its checkpoint."""
        listed = f"comparing {self.compared.axis}, {len(self.others)} more trainings"
        runs.train(self._session, self._space, self.others, self._fidelity, listed)

    def content(self, edited: bool) -> dict[str, Any]:
        """Return what a report says while the test set stays locked.

        Returns:
            JSON-able: ``axis``, ``control``, ``recipe_value``, ``metric``, ``left_out`` (a seed, or null), ``runs``
            [{value, seed, score, failure, test}], ``notes``; ``validation``, ``test``: comparisons
            (:func:`lungtune.stats.ablation_report.part`), the second null; ``confirmed``: a sentence.
        """
        found = {
            "axis": self.compared.axis,
            "control": self.compared.control,
            "recipe_value": self.compared.own,
            "metric": self._space.objective.metric,
            "left_out": self.searched if self.left_out else None,
            "validation": self._part(self._session.dataset.validation, "prediction"),
            "test": None,
            "confirmed": "",
        }
        return found | self._told(edited)

    def score(self, part: Part, content: dict[str, Any], edited: bool) -> None:
        """Score all values on the opened test part; ``own`` were scored on it before. Fills in ``content``."""
        for run in (run for run in self.others if run.failure is None):
            runs.score(self._session, self._space, run, part, self._fidelity)
            try:
                metrics.check(part.labels, run.tested["probabilities"])
            except TrialError as error:  # it costs no other model its score
                run.failure, run.tested = f"on the test set: {error}", {}
        content["test"] = self._part(part, "tested")
        content["confirmed"] = ablation_report.confirmed(self.compared, content["validation"], content["test"])
        content |= self._told(edited, part)

    def _part(self, part: Part, what: str) -> dict[str, Any]:
        found = {
            value: {run.seed: getattr(run, what) for run in each if getattr(run, what)}
            for value, each in self.arms.items()
        }
        classes = self._session.dataset.classes
        metric = self._space.objective.metric
        return ablation_report.part(part.labels, part.patients, classes, self.compared, found, metric)

    def _told(self, edited: bool, test: Part | None = None) -> dict[str, Any]:
        failed = [(value, run.seed) for value, each in self.arms.items() for run in each if run.failure is not None]
        classes, metric = self._session.dataset.classes, self._space.objective.metric
        rows = [
            {
                "value": value,
                "seed": run.seed,
                "score": run.value,
                "failure": run.failure,
                "test": metrics.classification(test.labels, run.tested["probabilities"], classes)[metric]
                if test is not None and run.tested
                else None,
            }
            for value, each in self.arms.items()
            for run in each
        ]
        notes = ablation_report.notes(self.compared, self.searched, self.left_out, edited, failed)
        return {"runs": rows, "notes": notes}
