"""Retraining of classifiers: thresholds, a temperature, controls without lungs, predictions as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.io import write_atomic
from lungtune.retraining.controlled import ControlledRetraining
from lungtune.tasks.classification import baselines, evaluation, report_markdown

if TYPE_CHECKING:
    import numpy as np

    from lungtune.data.dataset import Part
    from lungtune.retraining.frame import Predicted


class ClassificationRetraining(ControlledRetraining):
    """See ``Retraining``. Temperature and thresholds are fitted once, on validation, before the test set opens."""

    def train(self) -> None:
        """See ``Retraining.train``."""
        super().train()
        self._tables: dict[str, tuple[Part, np.ndarray]] = {}
        part, probabilities = self.dataset.validation, self.probabilities(self.each[0].prediction)
        self._fitted = evaluation.fit(part["label"], probabilities, self.dataset.classes)

    def weights(self, draft: Path) -> None:
        """See ``Retraining.weights``: with ``temperature.json``."""
        super().weights(draft)
        temperature = json.dumps(self._fitted.temperature.to_dict(), indent=1)
        write_atomic(draft / "temperature.json", temperature.encode())

    def section(self, name: str, part: Part, predicted: Predicted) -> dict[str, Any]:
        """See ``Retraining.section``; returns :func:`lungtune.tasks.classification.evaluation.section`."""
        probabilities, predicted_here = self.probabilities(predicted), predicted[self.task.name]
        self.kept[name] = self.session.evaluators[self.task.name].kept(part, predicted_here)
        self._tables[name] = part, probabilities
        return evaluation.section(
            part["label"], probabilities, part.patients, self.dataset.classes, self.dataset.train["label"],
            heads={head: each for head, each in predicted_here.items() if head != "probabilities"},
            measures=self.measures(part, predicted), fitted=self._fitted, fitted_here=name == "validation",
            vs_baseline=self.controlled(name, part, probabilities), unit=part.unit,
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

    def from_files(self, train: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``ControlledRetraining.from_files``."""
        return baselines.metadata(train, self.dataset.train["label"], scored, self.dataset.classes)

    def versus(
        self, part: Part, probabilities: np.ndarray, blind: np.ndarray, what: str, train: Part, rows: np.ndarray | None
    ) -> dict[str, Any]:
        """See ``ControlledRetraining.versus``: in macro-F1."""
        arguments = part["label"], probabilities, blind, part.patients, self.dataset.classes, what, rows
        return baselines.vs_baseline(*arguments)


def _csv(part: Part, probabilities: np.ndarray, classes: Sequence[str]) -> str:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["case_id", "label", *classes])
    for case, label, row in zip(part.case_ids, part["label"], probabilities, strict=True):
        rows.writerow([case, classes[int(label)], *(f"{value:.6g}" for value in row)])
    return lines.getvalue()
