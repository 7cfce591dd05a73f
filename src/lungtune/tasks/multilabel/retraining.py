"""Retraining of models with several labels a case: thresholds and a calibration of each, predictions as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.io import write_atomic
from lungtune.retraining.controlled import ControlledRetraining
from lungtune.tasks.multilabel import baselines, calibration, report_markdown
from lungtune.tasks.multilabel.predictions import known_labels, left_out

if TYPE_CHECKING:
    import numpy as np

    from lungtune.data.dataset import Part
    from lungtune.retraining.frame import Predicted


class MultiLabelRetraining(ControlledRetraining):
    """See ``Retraining``. Calibration and thresholds are fitted once, on validation, before the test set opens."""

    def train(self) -> None:
        """See ``Retraining.train``."""
        super().train()
        self._tables: dict[str, tuple[Part, np.ndarray]] = {}
        part, probabilities = self.dataset.validation, self.probabilities(self.each[0].prediction)
        self._fits = calibration.fit(part["labels"], probabilities, self.dataset.classes)

    def weights(self, draft: Path) -> None:
        """See ``Retraining.weights``: with ``calibration.json``."""
        super().weights(draft)
        labels = {name: asdict(each) for name, each in zip(self.dataset.classes, self._fits, strict=True)}
        content = {"how": calibration.HOW, "fitted_on": "validation", "labels": labels}
        write_atomic(draft / "calibration.json", json.dumps(content, indent=1, ensure_ascii=False).encode())

    def section(self, name: str, part: Part, predicted: Predicted) -> dict[str, Any]:
        """See ``Retraining.section``: with ``labels`` by name, ``macro_f1``, ``left_out`` and ``controls`` by name."""
        plain = super().section(name, part, predicted)
        probabilities = self.probabilities(predicted)
        self._tables[name] = part, probabilities
        labels = calibration.by_label(part["labels"], probabilities, self._fits, self.dataset.classes)
        more = {"labels": labels, "macro_f1": calibration.macro_f1(labels), "fitted_here": name == "validation"}
        more["controls"] = self.controlled(name, part, probabilities)
        return {**plain, **more, "left_out": left_out(part["labels"], self.dataset.classes)}

    def section_markdown(self, title: str, section: Mapping[str, Any]) -> str:
        """See ``Retraining.section_markdown``."""
        return super().section_markdown(title, section) + report_markdown.labels_markdown(section)

    def section_text(self, name: str, section: Mapping[str, Any]) -> Sequence[str]:
        """See ``Retraining.section_text``."""
        return [*super().section_text(name, section), *report_markdown.labels_text(section)]

    def files(self, content: Mapping[str, Any]) -> dict[str, bytes]:
        """See ``Retraining.files``: with ``<part>.csv``: case_id, and truth and probability of each label."""
        tables = {f"{name}.csv": _csv(*table, self.dataset.classes).encode() for name, table in self._tables.items()}
        return {**super().files(content), **tables}

    def from_files(self, train: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray]) -> np.ndarray:
        """See ``ControlledRetraining.from_files``."""
        return baselines.metadata(train, self.dataset.train["labels"], scored)

    def versus(
        self, part: Part, probabilities: np.ndarray, blind: np.ndarray, what: str, train: Part, rows: np.ndarray | None
    ) -> dict[str, Any]:
        """See ``ControlledRetraining.versus``: in macro-AUROC over the labels that the control could learn."""
        arguments = probabilities, blind, part.patients, train["labels"], self.dataset.classes, what, rows
        return baselines.versus(part["labels"], *arguments)


def _csv(part: Part, probabilities: np.ndarray, labels: Sequence[str]) -> str:
    """Return a table: truth 1, 0, ``uncertain`` or blank, and the probability as trained."""
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["case_id", *(f"{kind}_{name}" for name in labels for kind in ("truth", "probability"))])
    truth = part["labels"]
    known = known_labels(truth)
    for case, values, sure, output in zip(part.case_ids, truth, known, probabilities, strict=True):
        shown = [
            f"{value:g}" if each else "" if value != value else "uncertain"
            for value, each in zip(values, sure, strict=True)
        ]
        rows.writerow([case, *(cell for pair in zip(shown, (f"{p:.6g}" for p in output)) for cell in pair)])
    return lines.getvalue()
