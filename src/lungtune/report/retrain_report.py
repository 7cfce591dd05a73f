"""Task-independent frame of a retraining report: one section per data part, Markdown, terminal text, files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lungtune.core.io import write_atomic
from lungtune.core.recipe import Provenance
from lungtune.core.space import SearchSpace
from lungtune.data.patients import counted
from lungtune.report import ablation_report, formatting
from lungtune.report.formatting import cell
from lungtune.stats import seeds
from lungtune.stats.bootstrap import interval_text
from lungtune.stats.seeds import spread, spread_text

_UNASKED = "The effect of synthetic images was not measured here. This command measures it"
PARTS = ("validation", "test")


def content(
    space: SearchSpace,
    origin: Provenance,
    about: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    validation: Mapping[str, Any],
    tolerance: float,
) -> dict[str, Any]:
    """Return the content of ``report.json`` of a retraining whose test set stays locked.

    Args:
        space: the recipe.
        origin: its provenance.
        about: ``recipe`` (file name), ``fingerprint``, ``weights`` (folder), ``data`` {source, split, classes},
            ``versions`` {package: version} of now.
        runs: per seed ``seed``, ``value``, ``failure``, ``metrics``, ``test``; the first is the recipe's own.
        validation: the first run's section.
        tolerance: how far the retrained score may lie from the searched one (``Task.tolerance``).

    Returns:
        JSON-able: ``about``'s fields; ``study``, ``study_id``, ``trial``, ``family``, ``task``, ``params``,
        ``fidelity`` (passes), ``date``; ``reproduction`` {reproduced, metric, searched, retrained, tolerance, edited,
        differences}; ``runs``; ``spread`` {mean, sd}, ``spread_others``: without the first, null for fewer than three
        runs; ``validation``, ``test``: sections; ``test_spread``; ``opening``: of the test part
        (:meth:`lungtune.core.ledger.Opening.to_dict`); ``effect``: of one parameter, where it was compared
        (:meth:`lungtune.retraining.arms.Arms.content`); ``unasked``: the command that measures the effect of the
        recipe's synthetic images, where it was not measured.
    """
    edited = about["fingerprint"] != origin.fingerprint
    values = [run["value"] for run in runs if run["value"] is not None]
    metric = space.objective.metric
    then, now = space.provenance.get("versions") or {}, about["versions"]
    differences = {name: [then[name], now[name]] for name in then if name in now and then[name] != now[name]}
    return {
        "schema": 1,
        **about,
        "study": origin.study,
        "study_id": origin.study_id,
        "trial": origin.trial,
        "family": space.family,
        "task": space.objective.task,
        "params": dict(space.fixed),
        "fidelity": origin.fidelity,
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "reproduction": reproduction(metric, origin.score, runs[0]["value"], tolerance, edited, differences),
        "runs": [dict(run) for run in runs],
        "spread": spread(values),
        "spread_others": seeds.others(runs),
        "validation": validation,
        "test": None,
        "test_spread": None,
        "opening": None,
        "effect": None,
        "unasked": "",
    }


def reproduction(
    metric: str, searched: float, retrained: float, tolerance: float, edited: bool, differences: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the retrained score with the searched one.

    On the same machine with as many threads the two are equal, or nearly. Other hardware, other libraries and other
    trials in a pack round differently. ``differences`` are the versions that changed since the search, {name: [then,
    now]}.
    """
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


def reproduction_text(reproduction: Mapping[str, Any]) -> str:
    """Return the comparison as a sentence."""
    scores = (
        f"searched {reproduction['searched']:.4f}, retrained {reproduction['retrained']:.4f} ({reproduction['metric']})"
    )
    if reproduction["edited"]:
        return f"reproduced: not compared, the recipe was edited after its export; {scores}"
    if reproduction["reproduced"] == "yes":
        return f"reproduced: yes, {scores}"
    changed = ", ".join(f"{name} {then} then, {now} now" for name, (then, now) in reproduction["differences"].items())
    return f"reproduced: no, {scores}. Look at: the pretrained weights, {changed or 'the device'}"


def unit_of(part: Mapping[str, Any]) -> str:
    """Return the units of a section's intervals; `patients` in reports of versions that did not store them."""
    return part.get("unit", "patients")


def over(part: Mapping[str, Any], noun: str = "images") -> str:
    """Return how many cases, of how many patients, a section is over."""
    return counted(part["cases"], part["patients"], unit_of(part), noun)


def section_markdown(title: str, part: Mapping[str, Any]) -> str:
    """Return a plain section (:meth:`lungtune.retraining.frame.Retraining.section`) as Markdown."""
    lines = [f"## {title}", "", f"{over(part, 'cases')}. In brackets: 95 % bootstrap intervals over {unit_of(part)}."]
    if part["collapsed"]:
        lines += ["", f"**{part['collapsed']}**"]
    names = ["recipe", *(formatting.baseline(name) for name in part["baselines"])]
    lines += ["", "| metric | " + " | ".join(map(cell, names)) + " |", "|---" * (len(names) + 1) + "|"]
    for metric, value in part["metrics"].items():
        known = [scores.get(metric) for scores in part["baselines"].values()]
        cells = [interval_text(value), *("-" if score is None else f"{score:.3f}" for score in known)]
        lines.append(f"| {cell(metric)} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *measures_markdown(part["measures"])]) + "\n"


def measures_markdown(measures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a table of the metrics of a family's other tasks; no line without any."""
    if not measures:
        return []
    lines = ["", "| measure | images | mean |", "|---|---|---|"]
    return lines + [f"| {cell(name)} | {each['cases']} | {interval_text(each)} |" for name, each in measures.items()]


def controls_markdown(controls: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Return comparisons with controls on the same cases (``stats.controls``), by name, and why others are missing."""
    known = {name: each for name, each in controls.items() if each["computed"]}
    lines = []
    if known:
        lines += ["", f"| baseline | images | its {metric} | the model's | model minus baseline |", "|---" * 5 + "|"]
    for name, each in known.items():
        shown = [interval_text(each[key]) for key in ("baseline", "model", "gain")]
        lines.append(f"| {cell(name)} | {each['cases']} | " + " | ".join(shown) + " |")
    for name, each in controls.items():
        lines += ["", f"{cell(name).capitalize()}: {cell(each['sentence'])}"]
    return lines


def section_text(name: str, part: Mapping[str, Any]) -> list[str]:
    """Return a plain section for the terminal."""
    lines = [f"{name}: {over(part, 'cases')} (95 % intervals over {unit_of(part)})"]
    for metric, value in part["metrics"].items():
        known = {formatting.baseline(other): scores.get(metric) for other, scores in part["baselines"].items()}
        references = "".join(f"; {other} {score:.3f}" for other, score in known.items() if score is not None)
        lines.append(f"  {metric:18} {interval_text(value)}{references}")
    lines += [f"  {part['collapsed']}"] if part["collapsed"] else []
    return lines + [f"  {measure:18} {interval_text(each)}" for measure, each in part["measures"].items()]


def markdown(report: Mapping[str, Any], sections: Mapping[str, str], remarks: Sequence[str] = ()) -> str:
    """Return a whole report as Markdown.

    Args:
        report: what :func:`content` returned.
        sections: part -> its section as Markdown.
        remarks: paragraphs that follow the sections.
    """
    lines = [f"# {cell(report['recipe'])}", ""]
    lines += [f"Trial {report['trial']} of the study {report['study']} ({report['family']}), trained again for "]
    lines[-1] += f"{report['fidelity']:g} passes over the training fold of `{report['data']['source']}`."
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
    lines += [sections["validation"]]
    lines += ["The configuration was chosen on these validation cases: the score is optimistic.", ""]
    if report["test"]:
        lines += [sections["test"]]
        lines += [f"The locked test set opens once for a study: {opening_text(report)}.", ""]
    for remark in remarks:
        lines += [remark, ""]
    if report.get("effect"):
        lines += [ablation_report.markdown(report["effect"])]
    if report.get("unasked"):
        lines += [f"{_UNASKED}: `{report['unasked']}`", ""]
    return "\n".join(lines)


def text(report: Mapping[str, Any], sections: Mapping[str, Sequence[str]]) -> str:
    """Return a report's headline for the terminal.

    Args:
        report: what :func:`content` returned.
        sections: part -> its lines.
    """
    lines = [reproduction_text(report["reproduction"])]
    lines += [f"run of seed {run['seed']} failed: {run['failure']}" for run in report["runs"] if run["failure"]]
    if len(report["runs"]) > 1:
        lines.append(f"{len(report['runs'])} seeds, validation: {spread_text(report['spread'])}")
        lines += [f"  {note}" for note in seeds.notes(report)]
    for name in PARTS:
        lines += sections.get(name, ())
    lines += [f"test: {opening_text(report)}"] if report.get("opening") else []
    lines += ablation_report.text(report["effect"]) if report.get("effect") else []
    lines += [f"{_UNASKED}: {report['unasked']}"] if report.get("unasked") else []
    return "\n".join(lines)


def opening_text(report: Mapping[str, Any]) -> str:
    """Return which opening of the test part a report's is, and who opened it before."""
    opening = report.get("opening")
    return str(opening["sentence"]) if opening else "the opening is in the ledger"


def note_opening(folder: Path, opening: Mapping[str, Any]) -> None:
    """Add an opening's sentence to the copy of the recipe in an output folder, and to the README of its weights."""
    card = folder / "weights" / "README.md"
    notes = {
        folder / "recipe.yaml": "\n# Test set: {}.\n",
        card: "\n## Test set\nScored at {}. Result: `test_report.md` of the retraining.\n",
    }
    for path, note in notes.items():
        if path.exists():
            write_atomic(path, path.read_bytes() + note.format(opening["sentence"]).encode())


def write(folder: Path, report: Mapping[str, Any], words: str, files: Mapping[str, bytes]) -> None:
    """Write ``report.json``, ``report.md`` and further files, each whole or not at all.

    A report with a test section is kept as ``test_report`` as well: a later one without a test leaves that alone.

    Args:
        folder: output folder.
        report: what :func:`content` returned.
        words: the same as Markdown.
        files: name -> content of figures and tables.
    """
    for name, data in files.items():
        write_atomic(folder / name, data)
    data = json.dumps(report, indent=1, ensure_ascii=False).encode()
    for stem in ("report", "test_report") if report["test"] else ("report",):
        write_atomic(folder / f"{stem}.json", data)
        write_atomic(folder / f"{stem}.md", words.encode())
