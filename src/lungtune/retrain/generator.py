"""From a generator's recipe to adapters, samples, and a report on what it draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.io import write_atomic
from lungtune.core.recipe import Provenance
from lungtune.core.space import SearchSpace
from lungtune.errors import SpaceError
from lungtune.report import contact_sheet
from lungtune.retrain.retraining import Asked, Retraining
from lungtune.tasks.generation import report_markdown

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Part
    from lungtune.retrain.runs import Run
    from lungtune.tasks.evaluator import Judged

_SHOWN = 8


class GeneratorRetraining(Retraining):
    """See ``Retraining``. The report stands beside the untrained base and real images.

    Raises:
        SpaceError: something is asked that only classifiers can answer.
    """

    def __init__(self, path: Path, space: SearchSpace, origin: Provenance, asked: Asked) -> None:
        for flag, value in (("--compare", asked.compare), ("--bank", asked.bank)):
            if value is not None:
                raise SpaceError(f"{flag} is for recipes of classifiers, but this one is of a generator; leave it out.")
        super().__init__(path, space, origin, asked)

    def train(self) -> None:
        """See ``Retraining.train``."""
        self._untrained = self.session.evaluator.untrained(self.session.pack, self.params)
        super().train()

    def weights(self, draft: Path) -> None:
        """See ``Retraining.weights``."""
        self.trainable.export(self.base, self.params, self.dataset.classes, self.each[0].adapter, draft)

    def write(self, content: dict[str, Any]) -> None:
        """See ``Retraining.write``."""
        write_atomic(self.folder / "samples.png", self._picture())
        for stem in ("report", "test_report") if content["test"] else ("report",):
            write_atomic(self.folder / f"{stem}.json", json.dumps(content, indent=1, ensure_ascii=False).encode())
            write_atomic(self.folder / f"{stem}.md", report_markdown.markdown(content).encode())

    def _dataset(self) -> Dataset:
        from lungtune.data import dataset

        return dataset.load(self.inspection, self.base.image_size)

    def _validation(self) -> dict[str, Any]:
        return self._section(self.dataset.validation)

    def _locked(self) -> Part:
        from lungtune.data import dataset

        part = dataset.load(self.inspection, self.base.image_size, test=True).test
        assert part is not None
        return part

    def _tested(self, run: Run, part: Part) -> dict[str, float]:
        return self.session.evaluator.scores(part, run.prediction)

    def _test(self, part: Part, content: dict[str, Any]) -> None:
        content["test"] = self._section(part)

    @property
    def _drawn(self) -> list[tuple[str, Judged]]:
        return [("recipe", self.each[0].prediction), ("untrained", self._untrained)]

    def _section(self, part: Part) -> dict[str, Any]:
        evaluator, judged = self.session.evaluator, self.each[0].prediction
        others = {"untrained": evaluator.evidence(part, self._untrained), "real": evaluator.real(part, judged)}
        mine, copies = evaluator.evidence(part, judged), evaluator.copies(judged).share
        shown = {name: (each["samples"], each["drawn"]) for name, each in self._drawn}
        shown["real"] = mine.real, part.labels
        told = {name: evaluator.recognised(*images) for name, images in shown.items()}
        return report_markdown.section(mine, others, part.patients, self.dataset.classes, copies, told)

    def _picture(self) -> bytes:
        """Real images above what the untrained base draws, above what the recipe draws, class by class."""
        train, rows = self.dataset.train, []
        for k, name in enumerate(self.dataset.classes):
            rows.append((f"{name}, real", np.asarray(train.images[train.labels == k][:_SHOWN])))
            for what, made in self._drawn[::-1]:
                rows.append((f"{name}, {what}", made["images"][made["drawn"] == k][:_SHOWN]))
        return contact_sheet.contact_sheet(rows, _SHOWN)
