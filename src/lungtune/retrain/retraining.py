"""What it takes to retrain a recipe, whatever its family draws or tells: runs, their scores, the frame of a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune import catalog
from lungtune.core import environment, recipe
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.errors import TrialError
from lungtune.report import retrain_report
from lungtune.retrain import runs

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection, Part


@dataclass(frozen=True)
class Asked:
    """What is asked of a recipe; see :func:`lungtune.retrain.retrain`."""

    seeds: int = 1
    test: bool = False
    blackout: bool = True
    compare: str | None = None
    bank: Path | None = None


class Retraining(ABC):
    """One recipe on its way to weights and a report. Its steps are called in the order they stand in here.

    Args:
        path: the recipe's file.
        space: what it holds.
        origin: where it comes from.
        asked: what is asked of it.

    Attributes (all but ``trainable``, ``base`` and ``params`` from :meth:`open` on):
        each: the recipe's own runs; the first has the recipe's seed, and its weights are kept.
        inspection, dataset: the data.
        session: trains and scores.
        folder, checkpoints: of the report, and of the runs.
        trainable, base, params: the family and its settings.
    """

    def __init__(self, path: Path, space: SearchSpace, origin: recipe.Provenance, asked: Asked) -> None:
        self.path, self.space, self.origin, self.asked = path, space, origin, asked
        self.trainable = catalog.family(space.family)
        self.base = parameters.build(self.trainable.Base, space.base)
        self.params = parameters.build(self.trainable.Params, space.fixed)

    @property
    def mark(self) -> str:
        """Hash of all that decides what is trained."""
        return recipe.fingerprint(self.space, self.origin.fidelity, self.origin.split, self.origin.bank)

    def open(self, inspection: Inspection, folder: Path) -> None:
        """Open the data, and a session with room for the runs, whose checkpoints lie in ``folder``."""
        from lungtune.engine.capacity import set_reproducible_threads
        from lungtune.engine.session import Session

        self.inspection, self.folder = inspection, folder
        self.dataset = self._dataset()
        self.checkpoints = folder / "work" / self.mark
        first, space = self.space.seed, self.space
        assert first is not None  # provenance made sure
        self.each = [runs.Run(seed, self.checkpoints / str(seed)) for seed in range(first, first + self.asked.seeds)]
        slots = runs.room(self.trainable, self._together())
        self.session = Session(self.trainable, self.base, self.dataset, space.fidelity, space.objective, slots=slots)
        set_reproducible_threads()

    def train(self) -> None:
        """Train the recipe's runs.

        Raises:
            TrialError: that of the recipe's own seed failed.
        """
        runs.train(self.session, self.space, self.each, self.origin.fidelity)
        if self.each[0].failure is not None:
            raise TrialError(
                "error", f"the run of the recipe's seed {self.each[0].seed} failed: {self.each[0].failure}"
            )

    @abstractmethod
    def weights(self, draft: Path) -> None:
        """Write the first run's weights into the empty folder ``draft``."""

    def content(self) -> dict[str, Any]:
        """Return what the report says while the test set is locked (:func:`lungtune.report.retrain_report.content`)."""
        about = {"recipe": self.path.name, "fingerprint": self.mark, "weights": str(self.folder / "weights")}
        data = {"source": self.inspection.source, "split": self.origin.split, "classes": list(self.dataset.classes)}
        about |= {"data": data, "versions": environment.describe()["versions"]}
        return retrain_report.content(
            self.space, self.origin, about, [run.row() for run in self.each], self._validation()
        )

    def before_test(self) -> None:
        """Make sure, before the test set opens, that every model that is to be scored on it is there.

        Raises:
            CheckpointError: one can't be read back.
        """
        runs.make_sure(self.session, self.space, self._scored(), self.origin.fidelity)

    def score(self, content: dict[str, Any]) -> None:
        """Open the test set and fill in what ``content`` says of it."""
        part = self._locked()
        for run, row in zip(self.each, content["runs"], strict=True):
            if run.failure is None:
                row["test"] = self._tested(run, part)[self.space.objective.metric]
        content["test_spread"] = retrain_report.spread(
            [row["test"] for row in content["runs"] if row["test"] is not None]
        )
        self._test(part, content)

    @abstractmethod
    def write(self, content: dict[str, Any]) -> None:
        """Write the report and its pictures."""

    @abstractmethod
    def _dataset(self) -> Dataset:
        """Open the parts that train and choose."""

    def _together(self) -> int:
        """Return how many runs may train together."""
        return self.asked.seeds

    @abstractmethod
    def _validation(self) -> dict[str, Any]:
        """Return the report's section on the validation part."""

    def _scored(self) -> list[runs.Run]:
        """Return the runs that the test set scores."""
        return self.each

    @abstractmethod
    def _locked(self) -> Part:
        """Open the test part."""

    @abstractmethod
    def _tested(self, run: runs.Run, part: Part) -> dict[str, float]:
        """Return a run's scores on the test part."""

    @abstractmethod
    def _test(self, part: Part, content: dict[str, Any]) -> None:
        """Fill in the report's section on the test part."""
