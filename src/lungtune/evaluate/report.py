"""What a retraining tells: machine-readable sections, and the same in words and tables."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungtune.core.journal import write_atomic
from lungtune.core.recipe import Provenance
from lungtune.core.space import SearchSpace
from lungtune.evaluate import baselines, bootstrap, metrics, seeds
from lungtune.evaluate.seeds import spread, spread_text

_SHOWN = ("macro_f1", "balanced_accuracy", "accuracy", "macro_auroc", "mcc", "nll", "brier", "ece")


def section(
    labels: np.ndarray,
    probabilities: np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    classes: Sequence[str],
    train_labels: np.ndarray,
) -> dict[str, Any]:
    """Judge one model on one part of the data, beside a model that never looks at the image.

    Args:
        labels: whole numbers ``(N,)``.
        probabilities: ``(N, C)``.
        patients: an id per case ``(N,)``.
        classes: the C names.
        train_labels: labels of the training fold, which choose the constant class.

    Returns:
        JSON-able: ``cases``, ``patients``, ``metrics`` {name: {value, low, high, level}}, ``confusion`` (rows the
        truth), ``per_class``, ``constant`` {class, metrics}, ``every_constant``, ``gain`` (macro-F1 above the constant
        class, paired interval), ``collapsed`` (a sentence, empty when it is not).
    """
    blind = baselines.prior(train_labels, len(classes), len(labels))
    found = bootstrap.intervals(labels, probabilities, patients, classes)
    return {
        "cases": len(labels),
        "patients": len(set(map(str, patients))),
        "metrics": {name: value.to_dict() for name, value in found.items()},
        "confusion": metrics.confusion(labels, probabilities).tolist(),
        "per_class": metrics.per_class(labels, probabilities, classes),
        "constant": {
            "class": baselines.majority(train_labels, classes),
            "metrics": baselines.constant_class(train_labels, labels, classes),
        },
        "every_constant": baselines.every_constant(labels, classes),
        "gain": bootstrap.paired(labels, probabilities, blind, patients).to_dict(),
        "collapsed": metrics.collapse_sentence(probabilities, classes),
    }


def content(
    space: SearchSpace,
    origin: Provenance,
    about: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    validation: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what ``report.json`` holds of a retraining whose test set stays locked.

    Args:
        space: the recipe.
        origin: its provenance.
        about: ``recipe`` (file name), ``fingerprint``, ``weights`` (folder), ``data`` {source, split, classes},
            ``versions`` {package: version} of now.
        runs: per seed ``seed``, ``value``, ``failure``, ``metrics``, ``test``; the first is the recipe's own.
        validation: the first run's :func:`section`.

    Returns:
        JSON-able: ``about``'s fields; ``study``, ``study_id``, ``trial``, ``family``, ``params``, ``fidelity``
        (passes), ``date``; ``reproduction`` {reproduced, metric, searched, retrained, tolerance, edited, differences};
        ``runs``; ``spread`` {mean, sd}, ``spread_others``: without the first, null for fewer than three runs;
        ``validation``, ``test``: sections; ``test_spread``.
    """
    edited = about["fingerprint"] != origin.fingerprint
    values = [run["value"] for run in runs if run["value"] is not None]
    metric = space.objective.metric
    then, now = space.provenance.get("versions") or {}, about["versions"]
    differences = {name: [then[name], now[name]] for name in then if name in now and then[name] != now[name]}
    compared = (metric, origin.score, runs[0]["value"], validation["cases"], edited, differences)
    return {
        "schema": 1,
        **about,
        "study": origin.study,
        "study_id": origin.study_id,
        "trial": origin.trial,
        "family": space.family,
        "params": dict(space.fixed),
        "fidelity": origin.fidelity,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "reproduction": reproduction(*compared),
        "runs": [dict(run) for run in runs],
        "spread": spread(values),
        "spread_others": seeds.others(runs),
        "validation": validation,
        "test": None,
        "test_spread": None,
    }


def interval_text(value: Mapping[str, float | None], digits: int = 3) -> str:
    """Return ``0.812 (0.770 to 0.850)``; without bounds the value alone."""
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"


def section_markdown(title: str, part: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return a section as Markdown: the verdict, metrics beside the constant class, per class, confusion matrix."""
    constant = part["constant"]
    names = [_cell(name) for name in classes]
    lines = [f"## {title}", "", f"{part['cases']} images of {part['patients']} patients. In brackets: 95 % bootstrap"]
    lines[-1] += " intervals over patients."
    if part["collapsed"]:
        lines += ["", f"**{part['collapsed']}**"]
    lines += ["", f"Macro-F1 above the constant class: {interval_text(part['gain'])}.", ""]
    lines += [f"| metric | model | always '{_cell(constant['class'])}' |", "|---|---|---|"]
    for name in _SHOWN:
        lines.append(f"| {name} | {interval_text(part['metrics'][name])} | {constant['metrics'][name]:.3f} |")
    fixed = ", ".join(f"{_cell(name)} {row['accuracy']:.3f}" for name, row in part["every_constant"].items())
    lines += ["", f"Accuracy of always saying one class: {fixed}."]
    lines += ["", "| class | images | recall | precision | specificity | F1 | AUROC |", "|---|---|---|---|---|---|---|"]
    for name, shown in zip(classes, names, strict=True):
        row, recall = part["per_class"][name], interval_text(part["metrics"][f"recall_{name}"])
        rest = " | ".join(f"{row[key]:.3f}" for key in ("precision", "specificity", "f1", "auroc"))
        lines.append(f"| {shown} | {row['cases']} | {recall} | {rest} |")
    recalls = [part["metrics"][f"recall_{name}"] for name in classes]
    if any(recall["low"] is not None and recall["low"] == recall["high"] for recall in recalls):
        lines += ["", "An interval that is a single point is too narrow: no drawn sample shows what no case shows."]
    lines += ["", "| truth \\ predicted | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for shown, row in zip(names, part["confusion"], strict=True):
        lines.append(f"| {shown} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def reproduction(
    metric: str, searched: float, retrained: float, cases: int, edited: bool, differences: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the retrained score with the searched one.

    On the same machine with as many threads the two are equal. Other hardware or libraries round differently, which
    tips single cases: scores count as equal within 0.01 or two cases, whichever is more. ``differences`` are the
    versions that changed since the search, {name: [then, now]}.
    """
    tolerance = max(0.01, 2 / cases)
    verdict = "not compared" if edited else "yes" if abs(searched - retrained) <= tolerance else "no"
    return {
        "reproduced": verdict,
        "metric": metric,
        "searched": searched,
        "retrained": retrained,
        "tolerance": tolerance,
        "edited": edited,
        "differences": dict(differences),
    }


def reproduction_text(found: Mapping[str, Any]) -> str:
    """Return the comparison as a sentence."""
    scores = f"searched {found['searched']:.4f}, retrained {found['retrained']:.4f} ({found['metric']})"
    if found["edited"]:
        return f"reproduced: not compared, the recipe was edited after its export; {scores}"
    if found["reproduced"] == "yes":
        return f"reproduced: yes, {scores}"
    changed = ", ".join(f"{name} {then} then, {now} now" for name, (then, now) in found["differences"].items())
    return f"reproduced: no, {scores}. Look at: the pretrained weights, {changed or 'the device'}"


def markdown(report: Mapping[str, Any]) -> str:
    """Return a whole report as Markdown."""
    classes = report["data"]["classes"]
    lines = [f"# {_cell(report['recipe'])}", ""]
    lines += [f"Trial {report['trial']} of the study {report['study']} ({report['family']}), trained again for "]
    lines[-1] += f"{report['fidelity']:g} passes over the training fold of {_cell(report['data']['source'])}."
    lines += ["", reproduction_text(report["reproduction"]).capitalize() + "."]
    lines += ["", f"Weights (they load without lungtune): `{report['weights']}`", ""]
    if len(report["runs"]) > 1:
        metric = report["reproduction"]["metric"]
        lines += ["## Seeds", "", f"| seed | validation {metric} |" + (" test |" if report["test"] else "")]
        lines += ["|---|---|" + ("---|" if report["test"] else "")]
        for run in report["runs"]:
            row = f"| {run['seed']} | " + (
                f"{run['value']:.4f} |" if run["value"] is not None else f"{run['failure']} |"
            )
            lines.append(row + (f" {run['test']:.4f} |" if run.get("test") is not None else ""))
        lines += ["", f"Validation {spread_text(report['spread'])}."]
        if report["test"]:
            lines[-1] += f" Test {spread_text(report['test_spread'])}."
        lines += ["", " ".join(seeds.notes(report)), ""]
    lines += [section_markdown("Validation", report["validation"], classes)]
    lines += ["The configuration was chosen on these validation cases: the score flatters it.", ""]
    if report["test"]:
        lines += [section_markdown("Test", report["test"], classes)]
        lines += ["The locked test set was opened once for this study; the opening is in the ledger.", ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Predictions:
    """Probabilities ``(N, C)`` of one model on one part, with labels and case ids ``(N,)``."""

    case_ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def write(folder: Path, report: Mapping[str, Any], predictions: Mapping[str, Predictions]) -> None:
    """Write a report, each file whole or not at all.

    ``report.json`` and ``report.md``; for each part in ``predictions`` (validation, test) ``<part>.csv`` (case_id,
    label, one column per class), ``<part>_confusion.png`` and ``<part>_roc.png``. A report with a test section is kept
    as ``test_report`` as well: a later one without a test leaves that alone.
    """
    from lungtune.evaluate import figures

    classes = report["data"]["classes"]
    for name, part in predictions.items():
        title, data = f"{report['recipe']}, {name}", (part.labels, part.probabilities, classes)
        write_atomic(folder / f"{name}_confusion.png", figures.confusion_png(*data, title))
        write_atomic(folder / f"{name}_roc.png", figures.roc_png(*data, title))
        write_atomic(folder / f"{name}.csv", _csv(part, classes).encode())
    content, words = json.dumps(report, indent=1, ensure_ascii=False).encode(), markdown(report).encode()
    for stem in ("report", "test_report") if report["test"] else ("report",):
        write_atomic(folder / f"{stem}.json", content)
        write_atomic(folder / f"{stem}.md", words)


def _csv(part: Predictions, classes: Sequence[str]) -> str:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["case_id", "label", *classes])
    for case, label, row in zip(part.case_ids, part.labels, part.probabilities, strict=True):
        rows.writerow([case, classes[int(label)], *(f"{value:.6g}" for value in row)])
    return lines.getvalue()


def text(report: Mapping[str, Any]) -> str:
    """Return a report's headline for the terminal: a handful of lines."""
    lines = [reproduction_text(report["reproduction"])]
    if len(report["runs"]) > 1:
        lines.append(f"{len(report['runs'])} seeds, validation: {spread_text(report['spread'])}")
        lines += [f"  {note}" for note in seeds.notes(report)]
    for name in ("validation", "test"):
        part = report[name]
        if not part:
            continue
        constant = part["constant"]
        lines.append(f"{name}: {part['cases']} images of {part['patients']} patients (95 % intervals over patients)")
        for metric in ("macro_f1", "balanced_accuracy", "accuracy"):
            blind = f"always '{constant['class']}' {constant['metrics'][metric]:.3f}"
            lines.append(f"  {metric:18} {interval_text(part['metrics'][metric])}; {blind}")
        lines += [f"  {part['collapsed']}"] if part["collapsed"] else []
        if name == "test":
            lines += [
                "  confusion matrix (rows: truth, columns: prediction)",
                *_matrix(part, report["data"]["classes"]),
            ]
    return "\n".join(lines)


def _matrix(part: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    width = max(len(name) for name in classes) + 2
    lines = ["  " + " " * width + "".join(f"{name:>{width}}" for name in classes)]
    for name, row in zip(classes, part["confusion"], strict=True):
        lines.append(f"  {name:>{width}}" + "".join(f"{count:>{width}}" for count in row))
    return lines


def _cell(text: str) -> str:
    """Keep a name from breaking a table or a tag."""
    return str(text).replace("|", "/").replace("<", "(").replace(">", ")").replace("\n", " ")
