"""What a retrained generator is worth, part by part of the data: in numbers, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.report import formatting
from lungtune.report.formatting import cell, interval_text
from lungtune.report.retrain_report import reproduction_text
from lungtune.stats import bootstrap
from lungtune.stats.seeds import spread_text
from lungtune.tasks.generation.recognition import RECOGNISED
from lungtune.tasks.generation.sample_metrics import METRICS, Samples

_CAUTION = (
    "A distance near that of real images says that the judging model cannot tell samples from real images in the mean. "
    "It does not say that they show what patients have, nor that they help a classifier: train one and compare "
    "(scripts/synthesize.py, scripts/search.py --bank)."
)


def section(
    samples: Samples,
    others: Mapping[str, Samples],
    patients: Sequence[str],
    classes: Sequence[str],
    copies: float,
    recognised: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Return what samples are worth beside the images of one part of the data.

    Args:
        samples: the generator's.
        others: what they are read beside on the same images, ``untrained`` and ``real``.
        patients: a name for each image ``(N,)``.
        classes: the names.
        copies: share of the samples that are near-copies of training images.
        recognised: of ``recipe`` and ``others``: how many a classifier of real images takes for their class
            (:meth:`lungtune.tasks.generation.recognition.Recogniser.shares`); of ``real``, the images of this part.

    Returns:
        JSON-able: ``cases``, ``patients``, ``samples``; ``metrics`` {name: interval}, ``cmmd_<class>`` among them;
        ``beside`` {name: the same}; ``gain``: how much nearer than the untrained base, with its interval; ``copies``;
        ``recognised``.
    """
    groups = bootstrap.groups_of(patients, len(samples.labels))
    own = samples.scorer(groups)
    found: dict[str, Any] = {
        "cases": len(samples.labels),
        "patients": own.patients,
        "samples": len(samples.drawn),
        "metrics": _metrics(samples, groups, classes),
        "beside": {name: _metrics(other, groups, classes) for name, other in others.items()},
        "gain": None,
        "copies": copies,
        "recognised": {name: dict(shares) for name, shares in recognised.items()},
    }
    if "untrained" in others:
        found["gain"] = bootstrap.between(others["untrained"].scorer(groups), own, "cmmd").to_dict()
    return found


def _metrics(samples: Samples, groups: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    scorer = samples.scorer(groups)
    names = {name: name for name in METRICS} | {f"cmmd_{name}": f"cmmd_{k}" for k, name in enumerate(classes)}
    return {shown: bootstrap.scored(scorer, name).to_dict() for shown, name in names.items()}


def text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal."""
    lines = [reproduction_text(report["reproduction"])]
    lines += [f"run of seed {run['seed']} failed: {run['failure']}" for run in report["runs"] if run["failure"]]
    for name in ("validation", "test"):
        part = report[name]
        if part is None:
            continue
        lines.append(f"{name}: {part['samples']} samples beside {part['cases']} images of {part['patients']} patients")
        lines += [f"  {line}" for line in _summary(part)]
    if len(report["runs"]) > 1:
        lines.append(f"cmmd of all seeds, validation: {spread_text(report['spread'])}")
    return "\n".join(lines)


def _summary(part: Mapping[str, Any]) -> list[str]:
    beside = {formatting.baseline(name): metrics["cmmd"] for name, metrics in part["beside"].items()}
    told = "; ".join(f"{name} {interval_text(value, 2)}" for name, value in beside.items())
    lines = [f"cmmd {interval_text(part['metrics']['cmmd'], 2)}" + (f"; {told}" if told else "")]
    gain = part["gain"]
    if gain is not None:
        known = gain["low"] is not None and gain["low"] > 0
        said = "nearer to real images than the untrained base" if known else "no nearer than the untrained base"
        lines.append(f"{said}: {interval_text(gain, 2)}")
    lines.append(f"coverage {interval_text(part['metrics']['coverage'])}; near-copies of training images "
                 f"{100 * part['copies']:.1f} % (about 1 % of real images look like one)")  # fmt: skip
    lines.append(_recognised(part["recognised"]))
    return lines


def _recognised(shares: Mapping[str, Mapping[str, float]]) -> str:
    """One sentence on whether samples look like their class."""
    of = {name: f"{100 * each[RECOGNISED]:.0f} %" for name, each in shares.items()}
    others = "; ".join(f"{formatting.baseline(name)} {of[name]}" for name in of if name != "recipe")
    return f"a classifier of real images takes {of['recipe']} of the samples for their class, mean over them ({others})"


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    lines = [f"# {cell(report['recipe'])}, retrained", "", f"{report['family']}, {report['fidelity']:g} passes; "]
    lines[-1] += f"study {cell(report['study'])}, trial {report['trial']}; {report['date']}."
    lines += ["", reproduction_text(report["reproduction"])]
    for name in ("validation", "test"):
        if report[name] is not None:
            lines += ["", *_part(name, report[name])]
    lines += ["", "![real images, the untrained base, the recipe](samples.png)", "", _CAUTION]
    lines += ["", "| seed | cmmd, validation | cmmd, test |", "|---" * 3 + "|"]
    for run in report["runs"]:
        shown = [f"{run[key]:.2f}" if run[key] is not None else "-" for key in ("value", "test")]
        lines.append(f"| {run['seed']} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _part(name: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"## {name.capitalize()}", "", f"{part['samples']} samples beside {part['cases']} images of "]
    lines[-1] += f"{part['patients']} patients. In brackets: 95 % bootstrap intervals over patients and samples."
    names = ["recipe", *(formatting.baseline(other) for other in part["beside"])]
    lines += ["", "| metric | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for metric in part["metrics"]:
        every = [part["metrics"][metric], *(other[metric] for other in part["beside"].values())]
        lines.append(f"| {cell(metric)} | " + " | ".join(interval_text(value) for value in every) + " |")
    told = part["recognised"]
    for share in told["recipe"]:
        every = [told[name].get(share) for name in ("recipe", *part["beside"])]
        lines.append(f"| {cell(share)} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in every) + " |")
    note = "`recognised` has no interval; under real images it is of those of this part, all else of training images."
    return [*lines, "", note, "", *(f"- {line}" for line in _summary(part)[1:])]
