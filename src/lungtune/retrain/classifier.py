"""From a classifier's recipe to weights with their temperature, and a report beside controls."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import comparison, synthetic
from lungtune.core.io import write_atomic
from lungtune.core.recipe import Provenance
from lungtune.core.space import SearchSpace
from lungtune.report import retrain_report
from lungtune.retrain import controls, runs
from lungtune.retrain.compare import Arms, compared_seeds
from lungtune.retrain.reopen import bank_of
from lungtune.retrain.retraining import Asked, Retraining
from lungtune.tasks.classification import baselines, metrics

if TYPE_CHECKING:
    import numpy as np

    from lungtune.data.dataset import Dataset, Inspection, Part


class ClassifierRetraining(Retraining):
    """See ``Retraining``. Other values of one parameter, and controls that see no lung, may train beside.

    Raises:
        SpaceError: ``compare`` can't be read; a bank is named but not wanted, or wanted but not named.
        DataError: the synthetic images are not those of the recipe.
    """

    def __init__(self, path: Path, space: SearchSpace, origin: Provenance, asked: Asked) -> None:
        super().__init__(path, space, origin, asked)
        self._compared = comparison.read(asked.compare, space, self.trainable) if asked.compare is not None else None
        self._wants = space if self._compared is None else dataclasses.replace(space, start=self._compared.points)
        self._bank = bank_of(self._wants, origin, asked.bank)
        self.origin = dataclasses.replace(origin, bank=self._bank.to_dict() if self._bank else origin.bank)
        self._arms: Arms | None = None
        self._dark: controls.Blackout | None = None
        self._predictions: dict[str, retrain_report.Predictions] = {}

    def open(self, inspection: Inspection, folder: Path) -> None:
        """See ``Retraining.open``."""
        super().open(inspection, folder)
        if self._compared:
            self._arms = Arms(self.session, self.space, self._compared, self.each, self.origin, folder / "work")

    def train(self) -> None:
        """See ``Retraining.train``: and the values it is compared with."""
        super().train()
        if self._arms:
            self._arms.train()
        part, said = self.dataset.validation, self.each[0].prediction["probabilities"]
        self._fitted = retrain_report.fit(part.labels, said, self.dataset.classes)

    def weights(self, draft: Path) -> None:
        """See ``Retraining.weights``."""
        self.trainable.export(self.base, self.params, self.dataset.classes, self.each[0].adapter, draft)
        temperature = json.dumps(self._fitted.temperature.to_dict(), indent=1)
        write_atomic(draft / "temperature.json", temperature.encode())

    def content(self) -> dict[str, Any]:
        """See ``Retraining.content``."""
        content = super().content()
        if self._arms:
            content["effect"] = self._arms.content(content["reproduction"]["edited"])
        told = self._compared is not None and self._compared.axis == synthetic.IMAGES
        if synthetic.Settings.from_mapping(self.space.fixed).wants_bank and not told:
            content["unasked"] = comparison.question(self.path)
        return content

    def before_test(self) -> None:
        """See ``Retraining.before_test``; the recipe trains on black lungs first."""
        if self.asked.blackout and self._masks:
            seen = self._opened(masks=True)
            folder = self.checkpoints / "blackout"
            self._dark = controls.Blackout(self.trainable, self.base, seen, self.space, self.origin.fidelity, folder)
        super().before_test()

    def write(self, content: dict[str, Any]) -> None:
        """See ``Retraining.write``."""
        retrain_report.write(self.folder, content, self._predictions)

    @property
    def _masks(self) -> bool:
        """Whether lung masks are wanted when the test set is open."""
        return self.trainable.needs_masks or (self.asked.blackout and controls.masked(self.inspection))

    def _opened(self, **how: Any) -> Dataset:
        from lungtune.data import dataset

        return dataset.load(self.inspection, self.base.image_size, **how)

    def _dataset(self) -> Dataset:
        images = self._bank.take(self.inspection.manifest, self._wants) if self._bank else None
        return self._opened(masks=self.trainable.needs_masks, bank=images)

    def _together(self) -> int:
        seeds = self.asked.seeds
        return max(seeds, len(self._compared.others) * compared_seeds(seeds)) if self._compared else seeds

    def _validation(self) -> dict[str, Any]:
        found = self.each[0].prediction
        blind = self._blind("validation", self.dataset.validation, found)
        return self._section("validation", self.dataset.validation, found, blind, fitted_here=True)

    def _scored(self) -> list[runs.Run]:
        return self.each + (self._arms.others if self._arms else [])

    def _locked(self) -> Part:
        part = self._opened(test=True, masks=self._masks).test
        assert part is not None
        return part

    def _tested(self, run: runs.Run, part: Part) -> dict[str, float]:
        runs.score(self.session, self.space, run, part, self.origin.fidelity)
        return metrics.classification(part.labels, run.tested["probabilities"], self.dataset.classes)

    def _test(self, part: Part, content: dict[str, Any]) -> None:
        found = self.each[0].tested
        beside = self._blind("test", part, found)
        beside[controls.BLACKOUT] = (
            self._dark.beside(part, found["probabilities"])
            if self._dark
            else baselines.missing(controls.NO_MASKS if self.asked.blackout else controls.LEFT_OUT)
        )
        content["test"] = self._section("test", part, found, beside)
        if self._arms:
            self._arms.score(part, content["effect"], content["reproduction"]["edited"])

    def _blind(self, name: str, part: Part, found: dict[str, np.ndarray]) -> dict[str, Any]:
        said = found["probabilities"]
        return {controls.METADATA: controls.metadata(self.inspection, self.dataset.train, name, part, said)}

    def _section(
        self, name: str, part: Part, found: dict[str, np.ndarray], beside: dict[str, Any], fitted_here: bool = False
    ) -> dict[str, Any]:
        said = found["probabilities"]
        self._predictions[name] = retrain_report.Predictions(part.case_ids, part.labels, said)
        return retrain_report.section(
            part.labels, said, part.patients, self.dataset.classes, self.dataset.train.labels, found, self._fitted,
            fitted_here=fitted_here, beside=beside,
        )  # fmt: skip
