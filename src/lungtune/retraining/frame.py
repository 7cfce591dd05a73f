"""Task-independent retraining of a recipe: runs, scores with intervals, comparison, report.

:class:`Retraining` serves every task as it is; a task with more to report subclasses it (``Task.retraining``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import comparison, environment, imbalance, recipe, synthetic
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError, TrialError
from lungtune.report import retrain_report
from lungtune.retraining import runs
from lungtune.retraining.arms import Arms, compared_seeds
from lungtune.stats import bootstrap
from lungtune.stats.seeds import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from lungtune.core.family import Family
    from lungtune.core.fields import Field
    from lungtune.core.task import Predictions, Task
    from lungtune.data.dataset import Dataset, Inspection, Part
    from lungtune.data.synthetic_bank import SyntheticBank
    from lungtune.engine.session import Session

    Predicted = Mapping[str, Mapping[str, np.ndarray]]
    """task -> name -> predictions ``(N, ...)`` of a part."""


@dataclass(frozen=True)
class Options:
    """Options of a retraining; see :func:`lungtune.retrain.retrain`."""

    seeds: int = 1
    test: bool = False
    blackout: bool = True
    compare: str | None = None
    bank: Path | None = None


class Retraining:
    """Retraining of one recipe to weights and a report. Its public methods are called in the order of their definition.

    Args:
        path: the recipe's file.
        space: what it holds.
        origin: where it comes from.
        options: seeds, test set, comparison and so on.
        family: the recipe's family.

    Raises:
        SpaceError: ``compare`` can't be read; a bank is named but not needed, or needed but not named.
        DataError: the synthetic images are not those of the recipe.

    Attributes (the last five from :meth:`open` on):
        task: of the recipe's objective.
        base, params: the family's settings.
        compared: the parameter that is compared and its values; None where none is.
        inspection, dataset: the data.
        session: trains and scores; its ``evaluators`` by task name.
        folder, checkpoints: of the report, and of the runs.
        each: the recipe's own runs; the first has the recipe's seed, and its weights are kept.
        kept: part -> the first run's predictions, for figures.
    """

    dataset: Dataset
    inspection: Inspection
    session: Session

    def __init__(
        self, path: Path, space: SearchSpace, origin: recipe.Provenance, options: Options, family: Family[Any, Any]
    ) -> None:
        self.path, self.space, self.options, self.family = path, space, options, family
        self.objective = space.objective
        self.task: Task = family.task(space.objective.task)
        self.base = parameters.build(family.Base, space.base)
        self.params = parameters.build(family.Params, space.fixed)
        self.compared = None if options.compare is None else comparison.read(options.compare, space, family)
        self._wants = space if self.compared is None else dataclasses.replace(space, start=self.compared.points)
        self._bank = bank_of(self._wants, origin, options.bank)
        self.origin = dataclasses.replace(origin, bank=self._bank.to_dict() if self._bank else origin.bank)
        self.kept: dict[str, Predictions] = {}
        self._arms: Arms | None = None

    @property
    def mark(self) -> str:
        """Hash of everything the trained weights depend on."""
        return recipe.fingerprint(self.space, self.origin.fidelity, self.origin.split, self.origin.bank)

    def check(self, inspection: Inspection) -> None:
        """Verify that every run can be trained on these data.

        Raises:
            SpaceError: a setting for rare classes does not fit them.
        """
        manifest = inspection.manifest
        imbalance.check(self._wants, manifest.classes, manifest.class_counts("train"))

    def open(self, inspection: Inspection, folder: Path) -> None:
        """Open the data, and a session with room for the runs, whose checkpoints lie in ``folder``."""
        from lungtune.engine.capacity import set_reproducible_threads
        from lungtune.engine.session import Session

        self.inspection, self.folder = inspection, folder
        self.dataset = self.opened(bank=self._taken())
        self.checkpoints = folder / "work" / self.mark
        first, space = self.space.seed, self.space
        assert first is not None  # guaranteed by the provenance
        self.each = [runs.Run(seed, self.checkpoints / str(seed)) for seed in range(first, first + self.options.seeds)]
        slots = runs.room(self.family, self._together())
        self.session = Session(self.family, self.base, self.dataset, space.fidelity, space.objective, slots=slots)
        if self.compared:
            work, arguments = folder / "work", (self.session, self.family, self.space, self.compared, self.each)
            self._arms = Arms(*arguments, self.origin, work, self.predict)
        set_reproducible_threads()

    def train(self) -> None:
        """Train the recipe's runs, then those it is compared with.

        Raises:
            TrialError: that of the recipe's own seed failed.
        """
        runs.train(self.session, self.space, self.each, self.origin.fidelity)
        if self.each[0].failure is not None:
            raise TrialError(
                "error", f"the run of the recipe's seed {self.each[0].seed} failed: {self.each[0].failure}"
            )
        if self._arms:
            self._arms.train()

    def weights(self, draft: Path) -> None:
        """Write the first run's weights into the empty folder ``draft``."""
        self.family.export(self.base, self.params, self.dataset.classes, self.each[0].adapter, draft)

    def content(self) -> dict[str, Any]:
        """Return the report content while the test set is locked (:func:`lungtune.report.retrain_report.content`)."""
        about: dict[str, Any] = {"recipe": self.path.name, "fingerprint": self.mark}
        about["weights"] = str(self.folder / "weights")
        data = {"source": self.inspection.source, "split": self.origin.split, "classes": list(self.dataset.classes)}
        about |= {"data": data, "versions": environment.describe()["versions"]}
        section = self.section("validation", self.dataset.validation, self.each[0].prediction)
        tolerance = self.task.tolerance(self.origin.score, section["cases"])
        rows = [run.row() for run in self.each]
        content = retrain_report.content(self.space, self.origin, about, rows, section, tolerance)
        if self._arms:
            content["effect"] = self._arms.content(content["reproduction"]["edited"])
        asked = self.compared is not None and self.compared.axis == synthetic.IMAGES
        if any(each.uses_bank for each in synthetic.settings(self.space)) and not asked:
            content["unasked"] = comparison.question(self.path)
        return content

    def before_test(self) -> None:
        """Verify, before the test set opens, that every model to be scored on it can be read.

        Raises:
            CheckpointError: one can't be read back.
        """
        scored = self.each + (self._arms.others if self._arms else [])
        runs.check_resumable(self.session, self.space, scored, self.origin.fidelity)

    def score(self, content: dict[str, Any]) -> None:
        """Open the test set and fill in its part of ``content``."""
        part = self.locked()
        for run, row in zip(self.each, content["runs"], strict=True):
            if run.failure is None:
                self.predict(run, part)
                scores = self.session.evaluators[self.task.name].scores(part, run.tested[self.task.name])
                row["test"] = scores.get(self.objective.own)
        known = [row["test"] for row in content["runs"] if row["test"] is not None]
        content["test_spread"] = spread(known) if known else None
        content["test"] = self.section("test", part, self.each[0].tested)
        if self._arms:
            self._arms.score(part, content["effect"], content["reproduction"]["edited"])

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the report, figures and tables."""
        sections = {name: self.section_markdown(name.capitalize(), content[name]) for name in self._parts(content)}
        words = retrain_report.markdown(content, sections, self.remarks())
        retrain_report.write(self.folder, content, words, self.files(content))

    def text(self, content: Mapping[str, Any]) -> str:
        """Return the report for a terminal."""
        sections = {name: self.section_text(name, content[name]) for name in self._parts(content)}
        return retrain_report.text(content, sections)

    # What a task may override.

    def section(self, name: str, part: Part, predicted: Predicted) -> dict[str, Any]:
        """Return the report's section on a part of the data.

        Returns:
            JSON-able: ``cases``, ``patients`` (their number), ``unit`` (what they are,
            :func:`lungtune.data.patients.unit`); ``metrics`` {name: {value, low, high, level}}; ``baselines`` {name:
            {metric: value}}; ``collapsed`` (a sentence, empty when it has not); ``measures``
            (:meth:`measures`).
        """
        kept = self.kept[name] = self.session.evaluators[self.task.name].kept(part, predicted[self.task.name])
        scorer = kept.scorer(bootstrap.groups_of(part.patients, len(part)))
        intervals = bootstrap.intervals(scorer, self.task.scorer_names(self.dataset.classes))
        return {
            "cases": len(part),
            "patients": scorer.patients,
            "unit": part.unit,
            "metrics": {metric: value.to_dict() for metric, value in intervals.items()},
            "baselines": self.task.baselines(self.dataset, part),
            "collapsed": kept.collapsed(self.dataset.classes),
            "measures": self.measures(part, predicted),
        }

    def section_markdown(self, title: str, section: Mapping[str, Any]) -> str:
        """Return a section as Markdown."""
        return retrain_report.section_markdown(title, section)

    def section_text(self, name: str, section: Mapping[str, Any]) -> Sequence[str]:
        """Return a section for a terminal."""
        return retrain_report.section_text(name, section)

    def remarks(self) -> Sequence[str]:
        """Return paragraphs that follow the sections of the Markdown report."""
        return ()

    def files(self, content: Mapping[str, Any]) -> dict[str, bytes]:
        """Return figures and tables, by file name."""
        recipe_name, classes = content["recipe"], self.dataset.classes
        return {
            f"{name}_{file}": png
            for name, kept in self.kept.items()
            for file, png in kept.figures(f"{recipe_name}, {name}", classes)
        }

    def predict(self, run: runs.Run, part: Part) -> None:
        """Fill in a trained run's predictions of the test part."""
        runs.score(self.session, self.space, run, part, self.origin.fidelity)

    def locked(self) -> Part:
        """Open the test part."""
        part = self.opened(test=True).test
        assert part is not None
        return part

    # What subclasses use.

    def measures(self, part: Part, predicted: Predicted) -> dict[str, Any]:
        """Return the metrics of the family's other tasks: name -> {value, low, high, level, cases}."""
        measures: dict[str, Any] = {}
        groups = bootstrap.groups_of(part.patients, len(part))
        for task in (task for task in self.family.tasks if task is not self.task):
            scorer = self.session.evaluators[task.name].kept(part, predicted[task.name]).scorer(groups)
            for metric, value in bootstrap.intervals(scorer, {name: name for name in task.metrics}).items():
                cases = int(scorer.cases(metric).sum())
                measures[self.family.metric_key(task, metric)] = {**value.to_dict(), "cases": cases}
        return measures

    def opened(self, more: Sequence[Field] = (), **how: Any) -> Dataset:
        """Open the data: the family's fields and ``more``; ``how`` as in :func:`lungtune.data.dataset.load`."""
        from lungtune.data import dataset

        return dataset.load(self.inspection, (*self.family.fields, *more), self.base.image_size, **how)

    def _taken(self) -> SyntheticBank | None:
        """Return as many of the bank's images as the recipe and its comparison need."""
        if self._bank is None:
            return None
        manifest = self.inspection.manifest
        needed = synthetic.needed(self._wants, manifest.class_counts("train"))
        return self._bank.take(manifest, needed, synthetic.reason(self._wants))

    def _together(self) -> int:
        """Return the number of runs that may train together."""
        seeds = self.options.seeds
        return max(seeds, len(self.compared.others) * compared_seeds(seeds)) if self.compared else seeds

    def _parts(self, content: Mapping[str, Any]) -> list[str]:
        return [name for name in retrain_report.PARTS if content[name]]


def bank_of(space: SearchSpace, origin: recipe.Provenance, folder: Path | None) -> SyntheticBank | None:
    """Open the synthetic images that a recipe, or a comparison, needs; the bank may have grown since.

    Raises:
        SpaceError: none are needed but a bank is named, or the other way round.
        DataError: the bank is lost, or another one.
    """
    if not synthetic.wanted(space):
        if folder is not None:
            raise SpaceError(f"--bank is given, but the recipe uses no synthetic images: its {synthetic.RATIO} is 0.")
        return None
    from lungtune.data.synthetic_bank import SyntheticBank

    if origin.bank:
        return dataclasses.replace(SyntheticBank.reopen(origin.bank, folder), limits=None)
    if folder is None:
        raise SpaceError("the recipe uses synthetic images, but names no bank of them; name it with --bank DIR.")
    return SyntheticBank.open(folder)
