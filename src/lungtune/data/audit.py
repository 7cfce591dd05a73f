"""What is in a data set and what is wrong with it: facts, problems that stop a search, warnings."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from lungtune.data.cases import classes_of
from lungtune.data.duplicates import Pair
from lungtune.data.manifest import PARTS, Manifest
from lungtune.data.masks import mask_facts, mask_problems
from lungtune.data.metadata_leakage import Leakage, measure_leakage
from lungtune.data.sources._files import named
from lungtune.data.splits import MIN_VALIDATION, Links, link, make_manifest


@dataclass(frozen=True)
class Audit:
    """The result of a check.

    Attributes:
        source: the data source as the user wrote it.
        classes: in label order.
        official: official part (`train`, `validation`, `test`, `none`) -> class -> images, as found.
        parts: resulting part -> `cases`, `groups`, `classes` (class -> cases).
        patients: number of known patients; 0 when the source knows none.
        exact: exact duplicates: `groups`, `images`, `across` (groups in more than one official part), `examples`.
        near: copies and look-alikes: `copies`, `look_alikes`, `across`, `pairs`.
        unreadable: path -> why, all of them.
        excluded: case id -> why it is in no part.
        shortcuts: one entry per file property that varies.
        constant: part -> the best constant answer: `class`, `accuracy`, `macro_f1`.
        notes: how the split was made, a sentence per decision.
        problems: sentences; a search must not start while there is one.
        warnings: sentences; a search may start.
        masks: number of cases with a readable lung mask.
    """

    source: str
    classes: tuple[str, ...]
    official: dict[str, dict[str, int]]
    parts: dict[str, dict[str, Any]]
    patients: int
    exact: dict[str, Any]
    near: dict[str, Any]
    unreadable: dict[str, str]
    excluded: dict[str, str]
    shortcuts: tuple[Leakage, ...]
    constant: dict[str, dict[str, Any]]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    masks: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "shortcuts": [asdict(s) for s in self.shortcuts]} | {
            name: list(getattr(self, name)) for name in ("classes", "notes", "problems", "warnings")
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Audit:
        """Undo `to_dict`."""
        lists = {name: tuple(values[name]) for name in ("classes", "notes", "problems", "warnings")}
        return cls(**{**values, **lists, "shortcuts": tuple(Leakage(**s) for s in values["shortcuts"])})


def audit(
    cases: pd.DataFrame,
    facts: pd.DataFrame,
    manifest: Manifest | None = None,
    *,
    links: Links | None = None,
    masks: pd.DataFrame | None = None,
) -> Audit:
    """Check a data set and its split.

    Args:
        cases: the case table.
        facts: what `scan` returned for `cases["path"]`, same order.
        manifest: the split to judge; the default split when absent.
        links: what `splits.link` returned, if it has been called already.
        masks: what `scan_masks` returned for `cases`, if they are to be checked.
    """
    links = links or link(cases, facts)
    manifest = manifest or make_manifest(cases, facts, links=links, masks=masks)
    with_mask, gaps = mask_facts(cases, masks) if masks is not None else (0, [])
    odd_masks = mask_problems(cases, facts, masks) if masks is not None else []
    unreadable = {str(p): str(e) for p, e in zip(cases["path"], facts["error"], strict=True) if e is not None}
    found = _shortcuts(cases, facts, links, manifest)
    near = _near(cases, links.near)
    exact = _exact(cases, links.exact)
    return Audit(
        source=manifest.source,
        classes=classes_of(cases),
        official=_official(cases),
        parts={part: _part(manifest, part) for part in PARTS},
        patients=int(cases["patient_id"].nunique()),
        exact=exact,
        near=near,
        unreadable=unreadable,
        excluded=dict(manifest.excluded),
        shortcuts=tuple(found),
        constant={part: _constant(manifest, part) for part in ("validation", "test") if len(manifest.parts[part])},
        notes=manifest.notes,
        problems=(*_problems(cases, manifest, links, unreadable), *odd_masks),
        warnings=(*_warnings(cases, manifest, exact, near, found), *gaps),
        masks=with_mask,
    )


def _official(cases: pd.DataFrame) -> dict[str, dict[str, int]]:
    parts = cases["split"].where(cases["split"].notna(), "none")
    counts = Counter(zip(parts, cases["label"], strict=True))
    present = [part for part in (*PARTS, "none") if (parts == part).any()]
    return {part: {name: counts[part, name] for name in classes_of(cases)} for part in present}


def _part(manifest: Manifest, part: str) -> dict[str, Any]:
    entries = manifest.parts[part]
    counts = Counter(entries.label)
    classes = {name: counts[name] for name in manifest.classes}
    return {"cases": len(entries), "groups": len(set(entries.group)), "classes": classes}


def _exact(cases: pd.DataFrame, groups: list[list[int]]) -> dict[str, Any]:
    ids = cases["case_id"].to_numpy(dtype=object)
    parts = cases["split"].to_numpy(dtype=object)
    across = [group for group in groups if len({parts[row] for row in group}) > 1]
    return {
        "groups": len(groups),
        "images": sum(map(len, groups)),
        "across": len(across),
        "examples": [[str(ids[row]) for row in group] for group in (across + groups)[:10]],
    }


def _near(cases: pd.DataFrame, pairs: list[Pair]) -> dict[str, Any]:
    ids = cases["case_id"].to_numpy(dtype=object)
    parts = cases["split"].to_numpy(dtype=object)
    rows = [
        {
            "first": str(ids[p.first]),
            "second": str(ids[p.second]),
            "kind": p.kind,
            "bits": p.bits,
            "detail": p.detail,
            "across": parts[p.first] != parts[p.second],
        }
        for p in pairs
    ]
    rows.sort(key=lambda row: (not row["across"], -row["detail"]))
    return {
        "copies": sum(row["kind"] == "copy" for row in rows),
        "look_alikes": sum(row["kind"] == "look-alike" for row in rows),
        "across": sum(row["across"] for row in rows),
        "pairs": rows[:100],
    }


def _shortcuts(cases: pd.DataFrame, facts: pd.DataFrame, links: Links, manifest: Manifest) -> list[Leakage]:
    """Measure on training and validation cases; the test part stays unseen."""
    known = {*manifest.parts["train"].case_id, *manifest.parts["validation"].case_id}
    keep = cases["case_id"].isin(known).to_numpy()
    origins = cases["source"].to_numpy(dtype=str)
    return measure_leakage(cases["label"].to_numpy()[keep], facts[keep], links.groups[keep], origins[keep])


def _constant(manifest: Manifest, part: str) -> dict[str, Any]:
    """Score the constant answer that is best for this part: the most frequent class wins by every score used."""
    counts = Counter(manifest.parts[part].label)
    name = max(manifest.classes, key=lambda c: counts[c])
    share = counts[name] / sum(counts.values())
    f1 = 2 * share / (1 + share)
    return {"class": name, "accuracy": round(share, 4), "macro_f1": round(f1 / len(manifest.classes), 4)}


def _problems(cases: pd.DataFrame, manifest: Manifest, links: Links, unreadable: dict[str, str]) -> list[str]:
    problems = []
    if unreadable:
        files = named([f"{path} {why}" for path, why in unreadable.items()])
        problems.append(f"Every image must be readable, but {len(unreadable)} of {len(cases)} are not: {files}.")
    classes = classes_of(cases)
    if len(classes) < 2:
        problems.append(f"There must be at least 2 classes, but there is only '{classes[0]}'.")
    empty = [name for name in classes if not (cases["label"] == name).any()]
    if empty:
        problems.append(f"Every class must have images, but {named(empty)} has none.")
    problems += _leaks(cases, manifest, links)
    small = []
    for name in classes:
        groups = {
            group
            for part in ("train", "validation")
            for label, group in zip(manifest.parts[part].label, manifest.parts[part].group, strict=True)
            if label == name
        }
        if name not in empty and len(groups) < manifest.folds:
            small.append(f"{name} has {len(groups)}")
    if small:
        problems.append(
            f"Every class must have at least as many patients as there are folds ({manifest.folds}) outside the test "
            f"part, but {named(small)}."
        )
    for part in PARTS:
        counts = Counter(manifest.parts[part].label)
        lacking = [name for name in classes if not counts[name] and name not in empty]
        if lacking:
            problems.append(f"The {part} part must have cases of every class, but it has none of {named(lacking)}.")
    return problems


def _leaks(cases: pd.DataFrame, manifest: Manifest, links: Links) -> list[str]:
    """Find groups joined by patient or exact duplicate that lie in more than one resulting part."""
    part_of = {case: part for part in PARTS for case in manifest.parts[part].case_id}
    parts = np.array([part_of.get(case, "") for case in cases["case_id"]], dtype=object)
    seen: dict[int, dict[str, int]] = {}
    for row, group in enumerate(links.sure):
        if parts[row]:
            seen.setdefault(int(group), {}).setdefault(parts[row], row)
    ids = cases["case_id"].to_numpy(dtype=object)
    leaks = [
        " and ".join(f"{ids[row]} ({part})" for part, row in rows.items()) for rows in seen.values() if len(rows) > 1
    ]
    if not leaks:
        return []
    text = (
        f"No patient and no picture may be in two parts, but {len(leaks)} {'is' if len(leaks) == 1 else 'are'}: "
        f"{named(leaks)}. Add ',leaks=drop' to the data source to leave the training side out, or ',official=no' to "
        "draw all parts anew."
    )
    return [text]


def _gaps(cases: pd.DataFrame) -> list[str]:
    """Say how many images lack the patient id or the official part that others have."""
    gaps = []
    for column, what, then in (
        ("patient_id", "patient id", "each of these counts as a patient of its own"),
        ("split", "official part", "these count as training images"),
    ):
        lacking = int(cases[column].isna().sum())
        if 0 < lacking < len(cases):
            verb = "has" if lacking == 1 else "have"
            gaps.append(f"{lacking} of {len(cases)} images {verb} no {what} while others do; {then}.")
    return gaps


def _warnings(
    cases: pd.DataFrame, manifest: Manifest, exact: dict[str, Any], near: dict[str, Any], found: list[Leakage]
) -> list[str]:
    warnings = _gaps(cases)
    counts = Counter(manifest.parts["validation"].label)
    few = [f"{name} has {counts[name]}" for name in manifest.classes if 0 < counts[name] < MIN_VALIDATION]
    if few:
        warnings.append(
            f"Scores will be coarse: a class should have {MIN_VALIDATION} validation cases, but {named(few)}."
        )
    if near["across"]:
        across = [pair for pair in near["pairs"] if pair["across"]]
        shown = named([f"{p['first']} and {p['second']} ({p['kind']})" for p in across])
        warnings.append(f"{near['across']} pairs of nearly equal pictures lie in different official parts: {shown}.")
    if exact["groups"]:
        warnings.append(
            f"{exact['images']} images are exact duplicates, in {exact['groups']} groups; a group stays in one part."
        )
    if manifest.excluded:
        shown = named([f"{case} ({why})" for case, why in manifest.excluded.items()])
        warnings.append(f"Left out of all parts, {len(manifest.excluded)} in number: {shown}.")
    for shortcut in found:
        if shortcut.alarm:
            warnings.append(
                f"Shortcut: {shortcut.feature} alone predicts the class with balanced accuracy "
                f"{shortcut.balanced_accuracy:.2f} (guessing {shortcut.chance:.2f}); {shortcut.example}. A model may "
                "learn the files instead of the lungs."
            )
    return warnings
