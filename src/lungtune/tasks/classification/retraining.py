"""Retraining of classifiers: thresholds, a temperature, controls without lungs, predictions as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.fields import MASK
from lungtune.core.io import write_atomic
from lungtune.errors import TrialError
from lungtune.retraining import controls
from lungtune.retraining.frame import Retraining
from lungtune.tasks.classification import baselines, evaluation, report_markdown

if TYPE_CHECKING:
    import numpy as np

    from lungtune.data.dataset import Part
    from lungtune.retraining.frame import Predicted

_OUTSIDE = "What the files look like from outside (size, mode, type)"
_DARK = "The same recipe with the lungs blacked out"


class ClassificationRetraining(Retraining):
    """See ``Retraining``. Temperature and thresholds are fitted once, on validation, before the test set opens."""

    _dark: controls.Blackout | None = None

    def train(self) -> None:
        """See ``Retraining.train``."""
        super().train()
        self._tables: dict[str, tuple[Part, np.ndarray]] = {}
        part, probabilities = self.dataset.validation, self._probabilities(self.each[0].prediction)
        self._fitted = evaluation.fit(part["label"], probabilities, self.dataset.classes)

    def weights(self, draft: Path) -> None:
        """See ``Retraining.weights``: with ``temperature.json``."""
        super().weights(draft)
        temperature = json.dumps(self._fitted.temperature.to_dict(), indent=1)
        write_atomic(draft / "temperature.json", temperature.encode())

    def before_test(self) -> None:
        """See ``Retraining.before_test``; the recipe trains on black lungs first."""
        if self.options.blackout and controls.masked(self.inspection):
            seen = self.opened((MASK,))
            arguments = self.family, self.base, seen, self.space, self.origin.fidelity
            self._dark = controls.Blackout(*arguments, self.checkpoints / "blackout")
        super().before_test()

    def section(self, name: str, part: Part, predicted: Predicted) -> dict[str, Any]:
        """See ``Retraining.section``; returns :func:`lungtune.tasks.classification.evaluation.section`."""
        probabilities, predicted_here = self._probabilities(predicted), predicted[self.task.name]
        self.kept[name] = self.session.evaluators[self.task.name].kept(part, predicted_here)
        self._tables[name] = part, probabilities
        return evaluation.section(
            part["label"], probabilities, part.patients, self.dataset.classes, self.dataset.train["label"],
            heads={head: each for head, each in predicted_here.items() if head != "probabilities"},
            measures=self.measures(part, predicted), fitted=self._fitted, fitted_here=name == "validation",
            vs_baseline=self._controls(name, part, probabilities), unit=part.unit,
        )  # fmt: skip

    def section_markdown(self, title: str, section: Mapping[str, Any]) -> str:
        """See ``Retraining.section_markdown``."""
        return report_markdown.section_markdown(title, section, self.dataset.classes)

    def section_text(self, name: str, section: Mapping[str, Any]) -> Sequence[str]:
        """See ``Retraining.section_text``."""
        return report_markdown.section_text(name, section, self.dataset.classes)

    def files(self, content: Mapping[str, Any]) -> dict[str, bytes]:
        """See ``Retraining.files``: with ``<part>.csv``: case_id, label, one column per class."""
        tables = {f"{name}.csv": _csv(*table, self.dataset.classes).encode() for name, table in self._tables.items()}
        return {**super().files(content), **tables}

    def locked(self) -> Part:
        """See ``Retraining.locked``: with masks where the blackout needs them."""
        masks = (MASK,) if self._dark is not None else ()
        part = self.opened(masks, test=True).test
        assert part is not None
        return part

    def _probabilities(self, predicted: Predicted) -> np.ndarray:
        return predicted[self.task.name]["probabilities"]

    def _controls(self, name: str, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
        """Return the comparisons with the controls: file properties and, on test, black lungs."""
        classes = self.dataset.classes
        facts = [controls.outside(self.inspection, each) for each in ("train", name)]
        blind = baselines.metadata(facts[0], self.dataset.train["label"], facts[1], classes)
        metadata = baselines.vs_baseline(part["label"], probabilities, blind, part.patients, classes, _OUTSIDE)
        results = {controls.METADATA: metadata}
        return results if name == "validation" else {**results, controls.BLACKOUT: self._blackout(part, probabilities)}

    def _blackout(self, part: Part, probabilities: np.ndarray) -> dict[str, Any]:
        import numpy as np

        if self._dark is None:
            return baselines.missing(controls.NO_MASKS if self.options.blackout else controls.LEFT_OUT)
        if self._dark.problem:
            return baselines.missing(self._dark.problem)
        rows, blind = part.has("mask"), np.zeros_like(probabilities)
        if not rows.any():
            return baselines.missing("Not computed: no case of this part has a lung mask.")
        blind[rows] = self._probabilities(self._dark.predict(part))
        arguments = part["label"], probabilities, blind, part.patients, self.dataset.classes, _DARK, rows
        try:
            return baselines.vs_baseline(*arguments)
        except TrialError as error:  # its probabilities are not finite
            return baselines.missing(f"Not computed: {error}")


def _csv(part: Part, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["case_id", "label", *classes])
    for case, label, row in zip(part.case_ids, part["label"], probabilities, strict=True):
        rows.writerow([case, classes[int(label)], *(f"{value:.6g}" for value in row)])
    return lines.getvalue()
