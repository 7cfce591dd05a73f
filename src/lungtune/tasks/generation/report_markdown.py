"""Report section of a generator: plain data, Markdown, terminal text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungtune.report import formatting
from lungtune.report.formatting import cell
from lungtune.report.retrain_report import over, unit_of
from lungtune.stats import bootstrap
from lungtune.stats.bootstrap import interval_text
from lungtune.tasks.generation import RECOGNISED, Generation
from lungtune.tasks.generation.sample_metrics import Samples

CAUTION = (
    "A distance near that of real images means that the embedding does not separate samples from real images on "
    "average. It does not mean that they show what patients have, nor that they help a classifier: train one and "
    "compare (lungtune synthesize, lungtune search --bank)."
)


def section(
    samples: Samples,
    others: Mapping[str, Samples],
    patients: Sequence[str] | np.ndarray,
    classes: Sequence[str],
    copies: float,
    recognised: Mapping[str, Mapping[str, float]],
    unit: str = "patients",
) -> dict[str, Any]:
    """Compare samples with the images of one part of the data.

    Args:
        samples: the generator's.
        others: references on the same images, ``untrained`` and ``real``.
        patients: a name for each image ``(N,)``.
        classes: the names.
        copies: share of the samples that are near-copies of training images.
        recognised: of ``recipe`` and ``others``: number that a classifier of real images assigns to their class
            (:meth:`lungtune.tasks.generation.recognition.Recogniser.shares`); of ``real``, the images of this part.
        unit: what ``patients`` are (:func:`lungtune.data.patients.unit`).

    Returns:
        JSON-able: ``cases``, ``patients`` (their number), ``unit`` (what they are), ``samples``; ``metrics`` {name:
        interval}, ``cmmd_<class>`` among them;
        ``beside`` {name: the same}; ``gain``: decrease of the distance against the untrained base, with its interval;
        ``copies``; ``recognised``.
    """
    groups = bootstrap.groups_of(patients, len(samples.labels))
    own = samples.scorer(groups)
    content: dict[str, Any] = {
        "cases": len(samples.labels),
        "patients": own.patients,
        "unit": unit,
        "samples": len(samples.drawn),
        "metrics": _metrics(samples, groups, classes),
        "beside": {name: _metrics(other, groups, classes) for name, other in others.items()},
        "gain": None,
        "copies": copies,
        "recognised": {name: dict(shares) for name, shares in recognised.items()},
    }
    if "untrained" in others:
        content["gain"] = bootstrap.between(others["untrained"].scorer(groups), own, "cmmd").to_dict()
    return content


def _metrics(samples: Samples, groups: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    intervals = bootstrap.intervals(samples.scorer(groups), Generation().scorer_names(classes))
    return {name: value.to_dict() for name, value in intervals.items()}


def section_text(name: str, part: Mapping[str, Any]) -> list[str]:
    """Return a section for the terminal."""
    lines = [f"{name}: {part['samples']} samples beside {over(part)}"]
    return lines + [f"  {line}" for line in _summary(part)]


def _summary(part: Mapping[str, Any]) -> list[str]:
    references = {formatting.baseline(name): metrics["cmmd"] for name, metrics in part["beside"].items()}
    others = "; ".join(f"{name} {interval_text(value, 2)}" for name, value in references.items())
    lines = [f"cmmd {interval_text(part['metrics']['cmmd'], 2)}" + (f"; {others}" if others else "")]
    gain = part["gain"]
    if gain is not None:
        known = gain["low"] is not None and gain["low"] > 0
        verdict = "nearer to real images than the untrained base" if known else "no nearer than the untrained base"
        lines.append(f"{verdict}: {interval_text(gain, 2)}")
    lines.append(f"coverage {interval_text(part['metrics']['coverage'])}; near-copies of training images "
                 f"{100 * part['copies']:.1f} % (about 1 % of real images look like one)")  # fmt: skip
    lines.append(_recognised(part["recognised"]))
    return lines


def _recognised(shares: Mapping[str, Mapping[str, float]]) -> str:
    """One sentence with the recognised shares of samples and references."""
    of = {name: f"{100 * each[RECOGNISED]:.0f} %" for name, each in shares.items()}
    others = "; ".join(f"{formatting.baseline(name)} {of[name]}" for name in of if name != "recipe")
    return f"a classifier of real images takes {of['recipe']} of the samples for their class, mean over them ({others})"


def section_markdown(title: str, part: Mapping[str, Any]) -> str:
    """Return a section as Markdown."""
    lines = [f"## {title}", "", f"{part['samples']} samples beside {over(part)}. In brackets: 95 % bootstrap "]
    lines[-1] += f"intervals over {unit_of(part)} and samples."
    names = ["recipe", *(formatting.baseline(other) for other in part["beside"])]
    lines += ["", "| metric | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for metric in part["metrics"]:
        every = [part["metrics"][metric], *(other[metric] for other in part["beside"].values())]
        lines.append(f"| {cell(metric)} | " + " | ".join(interval_text(value) for value in every) + " |")
    shares = part["recognised"]
    for share in shares["recipe"]:
        every = [shares[name].get(share) for name in ("recipe", *part["beside"])]
        lines.append(f"| {cell(share)} | " + " | ".join("-" if v is None else f"{v:.2f}" for v in every) + " |")
    note = "`recognised` has no interval; under real images it is of those of this part, all else of training images."
    return "\n".join([*lines, "", note, "", *(f"- {line}" for line in _summary(part)[1:])]) + "\n"
