"""Report of each label, as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lungtune.report.formatting import cell
from lungtune.report.retrain_report import controls_markdown
from lungtune.tasks.multilabel.calibration import SHOWN


def labels_markdown(section: Mapping[str, Any]) -> str:
    """Return the controls, and tables of the labels: ranking, calls at the thresholds, calibration."""
    labels = section["labels"]
    lines = [
        *controls_markdown(section["controls"], "macro-AUROC"),
        "",
        "| label | present | absent | open or unknown | AUROC | AP | threshold | F1 | recall | precision |",
    ]
    lines += ["|---" * 10 + "|"]
    for name, row in labels.items():
        counts = " | ".join(str(row[key]) for key in ("present", "absent", "open"))
        figures = ("auroc", "ap", "threshold", "f1", "recall", "precision")
        lines.append(f"| {cell(name)} | {counts} | " + " | ".join(_shown(row[key]) for key in figures) + " |")
    if section["left_out"]:
        lines += ["", cell(section["left_out"])]
    lines += [
        "",
        f"{_macro(section)} Thresholds are those of the highest F1 on validation, of calibrated probabilities.",
    ]
    lines += ["", "| label | slope | offset | " + " | ".join(f"{name}, calibrated" for name in SHOWN) + " |"]
    lines += ["|---" * (3 + len(SHOWN)) + "|"]
    for name, row in labels.items():
        pairs = (f"{_shown(row['before'][metric])} to {_shown(row['after'][metric])}" for metric in SHOWN)
        lines.append(f"| {cell(name)} | {row['slope']:.3g} | {row['offset']:.3g} | " + " | ".join(pairs) + " |")
    how = "Platt scaling of each label, fitted on validation"
    lines += ["", f"{how} (the same cases, so what follows it is optimistic)." if section["fitted_here"] else f"{how}."]
    for row in labels.values():
        lines += ["", cell(row["note"])] if row["note"] and section["fitted_here"] else []
    return "\n".join(lines) + "\n"


def labels_text(section: Mapping[str, Any]) -> list[str]:
    """Return the labels' headline for the terminal."""
    lines = [f"  {_macro(section)}", *([f"  {section['left_out']}"] if section["left_out"] else [])]
    return [*lines, *(f"  {name}: {each['sentence']}" for name, each in section["controls"].items())]


def _macro(section: Mapping[str, Any]) -> str:
    fitted = "fitted on these very cases" if section["fitted_here"] else "fitted on validation"
    return f"Macro-F1 at thresholds {fitted}: {_shown(section['macro_f1'])}."


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
