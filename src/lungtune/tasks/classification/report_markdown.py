"""Report section of a classifier, as Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lungtune.report.formatting import cell
from lungtune.report.retrain_report import controls_markdown, measures_markdown, over, unit_of
from lungtune.stats.bootstrap import interval_text
from lungtune.tasks.classification import METRICS

_TOO_NARROW = "An interval that is a single point is too narrow: no drawn sample shows what no case shows."
_HEADLINE = ("macro_f1", "balanced_accuracy", "accuracy")


def section_markdown(title: str, part: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return a section as Markdown: the verdict, metrics and the constant class's, other baselines, per class,
    confusion matrix, thresholds, calibration, further outputs."""
    constant = part["constant"]
    names = [cell(name) for name in classes]
    lines = [f"## {title}", "", f"{over(part)}. In brackets: 95 % bootstrap intervals over {unit_of(part)}."]
    if part["collapsed"]:
        lines += ["", f"**{part['collapsed']}**"]
    lines += ["", f"Macro-F1 above the constant class: {interval_text(part['gain'])}.", ""]
    lines += [f"| metric | model | always '{cell(constant['class'])}' |", "|---|---|---|"]
    for name in METRICS:
        lines.append(f"| {name} | {interval_text(part['metrics'][name])} | {constant['metrics'][name]:.3f} |")
    fixed = ", ".join(f"{cell(name)} {row['accuracy']:.3f}" for name, row in part["every_constant"].items())
    lines += ["", f"Accuracy of always saying one class: {fixed}."]
    lines += controls_markdown(part["baselines"], "macro-F1")
    lines += ["", "| class | images | recall | precision | specificity | F1 | AUROC | AP |", "|---" * 8 + "|"]
    for name, shown in zip(classes, names, strict=True):
        row, recall = part["per_class"][name], interval_text(part["metrics"][f"recall_{name}"])
        rest = " | ".join(f"{row[key]:.3f}" for key in ("precision", "specificity", "f1", "auroc", "ap"))
        lines.append(f"| {shown} | {row['cases']} | {recall} | {rest} |")
    if any(_is_point(part["metrics"][f"recall_{name}"]) for name in classes):
        lines += ["", _TOO_NARROW]
    lines += ["", "| truth \\ predicted | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for shown, row in zip(names, part["confusion"], strict=True):
        lines.append(f"| {shown} | " + " | ".join(map(str, row)) + " |")
    return "\n".join([*lines, *_operating(part), *_calibration(part), *_further(part)]) + "\n"


def _operating(part: Mapping[str, Any]) -> list[str]:
    if not part["operating"]:
        return []
    wanted = part["operating"][0]["wanted"]
    lines = ["", f"Thresholds set on validation for a sensitivity of {wanted:.3g}"]
    lines[-1] += ", on these very cases." if part["fitted_here"] else ", left as they are here."
    lines += ["", "| called as | threshold | images | sensitivity | specificity |", "|---" * 5 + "|"]
    for row in part["operating"]:
        shown = [interval_text(row[key]) if row[key] else "-" for key in ("sensitivity", "specificity")]
        threshold = "-" if row["threshold"] is None else f"{row['threshold']:.4g}"
        lines.append(f"| {cell(row['target'])} | {threshold} | {row['cases']} | " + " | ".join(shown) + " |")
    if any(_is_point(row[key]) for row in part["operating"] for key in ("sensitivity", "specificity") if row[key]):
        lines += ["", _TOO_NARROW]
    noted = [row for row in part["operating"] if row["note"]]
    if noted and not part["fitted_here"]:
        names = ", ".join(cell(row["target"]) for row in noted)
        return [*lines, "", f"Not to be relied on, for reasons given under Validation: the thresholds of {names}."]
    for row in noted:
        lines += ["", cell(row["note"])]
    return lines


def _is_point(interval: Mapping[str, float | None]) -> bool:
    return interval["low"] is not None and interval["low"] == interval["high"]


def _calibration(part: Mapping[str, Any]) -> list[str]:
    calibration = part["calibration"]
    if calibration is None:
        return []
    lines = [
        "",
        f"Temperature {calibration['temperature']:.3g}, fitted on {calibration['fitted_cases']} validation cases",
    ]
    lines[-1] += " (the same cases, so the scores after it are optimistic)." if calibration["fitted_here"] else "."
    lines[-1] += f" {calibration['note']}" if calibration["note"] else ""
    lines += ["", "| calibration | as trained | with the temperature |", "|---|---|---|"]
    return lines + [
        f"| {name} | {value:.3f} | {calibration['after'][name]:.3f} |" for name, value in calibration["before"].items()
    ]


def _further(part: Mapping[str, Any]) -> list[str]:
    lines = measures_markdown(part["measures"])
    if part["heads"]:
        shown = ("macro_f1", "balanced_accuracy", "macro_auroc", "macro_ap", "nll")
        lines += ["", "| head | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for name, each in part["heads"].items():
            lines.append(f"| {cell(name)} | " + " | ".join(interval_text(each[metric]) for metric in shown) + " |")
    return lines


def section_text(name: str, part: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Return a section's headline for the terminal.

    Args:
        name: of the part; on ``test`` thresholds and the confusion matrix are shown too.
        part: :func:`lungtune.tasks.classification.evaluation.section`.
        classes: the C names.
    """
    constant = part["constant"]
    lines = [f"{name}: {over(part)} (95 % intervals over {unit_of(part)})"]
    for metric in _HEADLINE:
        blind = f"always '{constant['class']}' {constant['metrics'][metric]:.3f}"
        lines.append(f"  {metric:18} {interval_text(part['metrics'][metric])}; {blind}")
    lines += [f"  {part['collapsed']}"] if part["collapsed"] else []
    lines += [f"  {baseline}: {each['sentence']}" for baseline, each in part["baselines"].items()]
    lines += [f"  {measure:18} {interval_text(each)}" for measure, each in part["measures"].items()]
    if name == "test":
        lines += _called(part)
        lines += ["  confusion matrix (rows: truth, columns: prediction)", *_matrix(part, classes)]
    return lines


def _called(part: Mapping[str, Any]) -> list[str]:
    """Performance at the high-sensitivity threshold for "abnormal"."""
    row = next((row for row in part["operating"] if row["target"] == "abnormal" and row["sensitivity"]), None)
    if row is None:
        return []
    rates = f"sensitivity {interval_text(row['sensitivity'])}, specificity {interval_text(row['specificity'])}"
    return [f"  abnormal, threshold from validation for a sensitivity of {row['wanted']:.3g}: {rates}"]


def _matrix(part: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    width = max(len(name) for name in classes) + 2
    lines = ["  " + " " * width + "".join(f"{name:>{width}}" for name in classes)]
    for name, row in zip(classes, part["confusion"], strict=True):
        lines.append(f"  {name:>{width}}" + "".join(f"{count:>{width}}" for count in row))
    return lines
