"""What a retraining tells: machine-readable sections (`sections`), the same in words (`words`), and their files."""

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

from lungtune.core.io import write_atomic
from lungtune.core.objectives import CLASSIFICATION
from lungtune.core.recipe import Provenance
from lungtune.core.space import SearchSpace
from lungtune.report.formatting import interval_text
from lungtune.stats import seeds
from lungtune.stats.seeds import spread
from lungtune.tasks.classification.evaluation import Fitted, fit, section
from lungtune.tasks.classification.report_markdown import markdown, reproduction_text, section_markdown, text

__all__ = [
    "Fitted",
    "Predictions",
    "content",
    "fit",
    "interval_text",
    "markdown",
    "reproduction",
    "reproduction_text",
    "section",
    "section_markdown",
    "spread",
    "text",
    "write",
]


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
        ``validation``, ``test``: sections; ``test_spread``; ``effect``: of one parameter, where it was compared
        (:meth:`lungtune.retrain.compare.Arms.content`); ``unasked``: the command that asks whether the recipe's
        synthetic images helped, where that was not asked.
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
        "effect": None,
        "unasked": "",
    }


def reproduction(
    metric: str, searched: float, retrained: float, cases: int, edited: bool, differences: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the retrained score with the searched one.

    On the same machine with as many threads the two are equal, or nearly. Other hardware, other libraries and other
    company in a pack round differently, which tips single cases: scores count as equal within 0.01 or two cases,
    whichever is more. A generator's rounding grows over its steps and those of its sampler: within 0.02 or 5 % (the
    same trial in four packs: 2.5 % from end to end, a 27th of its interval). ``differences`` are the versions that
    changed since the search, {name: [then, now]}.
    """
    tolerance = max(0.01, 2 / cases) if metric in CLASSIFICATION else max(0.02, 0.05 * abs(searched))
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
    from lungtune.tasks.classification import figures

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
