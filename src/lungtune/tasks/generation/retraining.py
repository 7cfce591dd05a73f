"""Retraining of generators: references (untrained base, real images) and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from lungtune.report import contact_sheet
from lungtune.retraining.frame import Retraining
from lungtune.tasks.generation import report_markdown

if TYPE_CHECKING:
    from lungtune.data.dataset import Part
    from lungtune.retraining.frame import Predicted
    from lungtune.retraining.runs import Run
    from lungtune.tasks.generation.evaluator import GenerationEvaluator

_SHOWN = 8


class GenerationRetraining(Retraining):
    """See ``Retraining``."""

    @property
    def evaluator(self) -> GenerationEvaluator:
        """The session's evaluator of samples."""
        return cast("GenerationEvaluator", self.session.evaluators[self.task.name])

    def train(self) -> None:
        """See ``Retraining.train``."""
        self._untrained = self.evaluator.untrained(self.session.pack, self.params)
        super().train()

    def predict(self, run: Run, part: Part) -> None:
        """See ``Retraining.predict``: the samples are the same for any part."""
        run.tested = run.prediction

    def section(self, name: str, part: Part, predicted: Predicted) -> dict[str, Any]:
        """See ``Retraining.section``; returns :func:`lungtune.tasks.generation.report_markdown.section`."""
        evaluator, drawn = self.evaluator, predicted[self.task.name]
        mine = self.kept[name] = evaluator.kept(part, drawn)
        others = {"untrained": evaluator.kept(part, self._untrained), "real": evaluator.real(part, drawn)}
        shown = {"recipe": (drawn["samples"], drawn["drawn"])}
        shown["untrained"] = self._untrained["samples"], self._untrained["drawn"]
        shown["real"] = mine.real, part["label"]
        shares = {each: evaluator.recognised(*images) for each, images in shown.items()}
        copies = evaluator.copies(drawn).share
        return report_markdown.section(mine, others, part.patients, self.dataset.classes, copies, shares, part.unit)

    def section_markdown(self, title: str, section: Mapping[str, Any]) -> str:
        """See ``Retraining.section_markdown``."""
        return report_markdown.section_markdown(title, section)

    def section_text(self, name: str, section: Mapping[str, Any]) -> Sequence[str]:
        """See ``Retraining.section_text``."""
        return report_markdown.section_text(name, section)

    def remarks(self) -> Sequence[str]:
        """See ``Retraining.remarks``."""
        return ("![real images, the untrained base, the recipe](samples.png)", report_markdown.CAUTION)

    def files(self, content: Mapping[str, Any]) -> dict[str, bytes]:
        """See ``Retraining.files``: with ``samples.png``."""
        return {**super().files(content), "samples.png": self._picture()}

    def _picture(self) -> bytes:
        """Real images above samples of the untrained base, above the recipe's samples, class by class."""
        import numpy as np

        train, rows = self.dataset.train, []
        drawn = {"untrained": self._untrained, "recipe": self.each[0].prediction[self.task.name]}
        for k, name in enumerate(self.dataset.classes):
            first = np.flatnonzero(train["label"] == k)[:_SHOWN]
            rows.append((f"{name}, real", np.asarray(train["image"][first])[:, 0]))
            for what, images in drawn.items():
                rows.append((f"{name}, {what}", images["images"][images["drawn"] == k][:_SHOWN]))
        return contact_sheet.contact_sheet(rows, _SHOWN)
