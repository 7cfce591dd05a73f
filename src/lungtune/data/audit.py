"""Audit of a data set and its split: counts, blocking problems, warnings."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtune.core.fields import UNCERTAIN
from lungtune.data import metadata, patients, shift
from lungtune.data.cases import classes_of
from lungtune.data.duplicates import Pair
from lungtune.data.guesses import guesses, judged, unconfirmed
from lungtune.data.manifest import PARTS, Manifest
from lungtune.data.masks import mask_facts, mask_problems
from lungtune.data.metadata_leakage import Leakage, measure_leakage
from lungtune.data.plausibility import odd_images, odd_sentences
from lungtune.data.shift import Shift
from lungtune.data.sources._files import named
from lungtune.data.splits import MIN_VALIDATION, Links, kind_of, link, make_manifest

if TYPE_CHECKING:
    import pandas as pd

_CHOOSING = frozenset({"nih", "chexpert", "mimic_cxr", "padchest", "vindr"})
"""Sources whose option `labels` chooses among the published labels."""


@dataclass(frozen=True)
class Audit:
    """The result of a check.

    Attributes:
        source: the data source as the user wrote it.
        classes: in label order.
        official: official part (`train`, `validation`, `test`, `none`) -> class -> images, as indexed; without classes
            all images are counted under the empty name.
        parts: resulting part -> `cases`, `groups`, `classes` (class -> cases); where cases have several labels also
            `labels` (label -> number of `positive`, `negative`, `uncertain` and `unknown` cases).
        patients: number of known patients; 0 when the source has none.
        exact: exact duplicates: `groups`, `images`, `across` (groups in more than one official part), `examples`.
        near: copies and look-alikes: `copies`, `look_alikes`, `across`, `pairs`.
        unreadable: path -> why, all of them.
        excluded: case id -> why it is in no part.
        shortcuts: one entry per file property that varies.
        constant: part -> the best constant answer: `class`, `accuracy`, `macro_f1`.
        notes: decisions of the split, a sentence each.
        problems: sentences; a search must not start while there is one.
        warnings: sentences; a search may start.
        masks: number of cases with a readable lung mask.
        shifts: differences between the official parts, per part and class.
        unit: what the groups of `parts` are: `patients`, `images`, `volumes`, `patients or images`.
        odd: kind -> case ids of images in which little or nothing can be learned (`plausibility`).
        inventory: what the source read, used, left out and guessed: `inventory.Inventory` as plain JSON types; empty
            in audits from before there was one.
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
    unit: str = "patients"
    shifts: tuple[Shift, ...] = ()
    odd: dict[str, list[str]] = field(default_factory=dict)
    inventory: dict[str, Any] = field(default_factory=dict)

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Guesses that a search needs confirmed, a sentence each with the options that do."""
        return unconfirmed(self.inventory)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), **{n: [asdict(s) for s in getattr(self, n)] for n in ("shortcuts", "shifts")}} | {
            name: list(getattr(self, name)) for name in ("classes", "notes", "problems", "warnings")
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Audit:
        """Inverse of `to_dict`."""
        lists = {name: tuple(values[name]) for name in ("classes", "notes", "problems", "warnings")}
        measured = {
            "shortcuts": tuple(Leakage(**each) for each in values["shortcuts"]),
            "shifts": tuple(Shift(**each) for each in values.get("shifts", ())),
        }
        return cls(**{**values, **lists, **measured})


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
        manifest: the split to check; the default split when absent.
        links: what `splits.link` returned, if it has been called already.
        masks: what `scan_masks` returned for `cases`, if they are to be checked.
    """
    links = links or link(cases, facts)
    manifest = manifest or make_manifest(cases, facts, links=links, masks=masks)
    with_mask, gaps = mask_facts(cases, masks) if masks is not None else (0, [])
    odd_masks = mask_problems(cases, facts, masks) if masks is not None else []
    unreadable = {str(p): str(e) for p, e in zip(cases["path"], facts["error"], strict=True) if e is not None}
    leakages = _shortcuts(cases, facts, links, manifest)
    shifts = shift.measure(cases, facts, links.groups)
    odd = odd_images(list(cases["label"]), facts)
    nothing_shown, implausible = odd_sentences(list(cases["case_id"]), odd, facts)
    inventory = judged(cases, links, masks)
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
        shortcuts=tuple(leakages),
        constant={
            part: _constant(manifest, part)
            for part in ("validation", "test")
            if manifest.classes and len(manifest.parts[part])
        },
        notes=manifest.notes,
        problems=(*_problems(cases, facts, manifest, links, unreadable), *odd_masks, *nothing_shown),
        warnings=(
            *guesses(inventory),
            *_warnings(cases, manifest, exact, near, leakages),
            *shift.warnings(shifts, cases, links.groups),
            *gaps,
            *implausible,
        ),
        masks=with_mask,
        unit=manifest.unit,
        shifts=tuple(shifts),
        odd={kind: [str(cases["case_id"].iloc[row]) for row in rows] for kind, rows in odd.items()},
        inventory=inventory.to_dict(),
    )


def _official(cases: pd.DataFrame) -> dict[str, dict[str, int]]:
    parts = cases["split"].where(cases["split"].notna(), "none")
    counts = Counter(zip(parts, cases["label"], strict=True))
    present = [part for part in (*PARTS, "none") if (parts == part).any()]
    if not classes_of(cases):
        return {part: {"": int((parts == part).sum())} for part in present}
    return {part: {name: counts[part, name] for name in classes_of(cases)} for part in present}


def _part(manifest: Manifest, part: str) -> dict[str, Any]:
    entries = manifest.parts[part]
    summary = {"cases": len(entries), "groups": len(set(entries.group)), "classes": manifest.class_counts(part)}
    if manifest.label_names:
        rows = [row or (None,) * len(manifest.label_names) for row in entries.labels]
        summary["labels"] = {
            name: {
                "positive": sum(row[k] == 1 for row in rows),
                "negative": sum(row[k] == 0 for row in rows),
                "uncertain": sum(row[k] == UNCERTAIN for row in rows),
                "unknown": sum(row[k] is None for row in rows),
            }
            for k, name in enumerate(manifest.label_names)
        }
    return summary


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
            "likeness": p.likeness,
            "relation": " ".join((*p.relation, p.kind)),
            "across": parts[p.first] != parts[p.second],
        }
        for p in pairs
    ]
    rows.sort(key=lambda row: (not row["across"], -row["likeness"]))
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
    details = metadata.columns(cases, np.flatnonzero(keep))
    return measure_leakage(cases["label"].to_numpy()[keep], facts[keep], links.groups[keep], origins[keep], details)


def _constant(manifest: Manifest, part: str) -> dict[str, Any]:
    """Score the best constant answer for this part: the most frequent class, which is best by every score used."""
    counts = manifest.class_counts(part)
    name = max(manifest.classes, key=lambda c: counts[c])
    share = counts[name] / sum(counts.values())
    f1 = 2 * share / (1 + share)
    return {"class": name, "accuracy": round(share, 4), "macro_f1": round(f1 / len(manifest.classes), 4)}


def _problems(
    cases: pd.DataFrame, facts: pd.DataFrame, manifest: Manifest, links: Links, unreadable: dict[str, str]
) -> list[str]:
    problems = []
    if unreadable and cases.attrs.get("unreadable") != "drop":
        files = named([f"{path} {why}" for path, why in unreadable.items()])
        problems.append(
            f"Every image must be readable, but {len(unreadable)} of {len(cases)} are not: {files}. Mend them, or add "
            "',unreadable=drop' to the data source to leave them out."
        )
    problems += _mixed(cases, facts)
    classes = classes_of(cases)
    if len(classes) == 1:
        problems.append(f"There must be at least 2 classes, but there is only '{classes[0]}'.")
    empty = [name for name in classes if not (cases["label"] == name).any()]
    if empty:
        problems.append(f"Every class must have images, but {named(empty)} has none.")
    problems += _leaks(cases, manifest, links)
    problems += _small(manifest, empty) if classes else _small_parts(manifest)
    for part in PARTS:
        counts = manifest.class_counts(part)
        lacking = [name for name in classes if not counts[name] and name not in empty]
        if lacking:
            problems.append(f"The {part} part must have cases of every class, but it has none of {named(lacking)}.")
    one_sided = _one_sided(manifest, "train", "Every label must occur in the training part")
    return [*problems, *(f"{sentence}{_others(cases, manifest)}" for sentence in one_sided)]


def _others(cases: pd.DataFrame, manifest: Manifest) -> str:
    """Return the option that leaves out the labels that training lacks; empty for sources without it, or none left."""
    if not set(cases["source"]) <= _CHOOSING:
        return ""
    counts = _part(manifest, "train").get("labels", {})
    kept = [name for name, each in counts.items() if each["positive"] and each["negative"]]
    return f" Add ',labels={'|'.join(kept)}' to the data source to use only the others." if kept else ""


def _mixed(cases: pd.DataFrame, facts: pd.DataFrame) -> list[str]:
    """Find cases of another kind, or volumes of other channels, than most."""
    kind, channels = kind_of(facts)
    readable = facts["error"].isna().to_numpy()
    other = readable & (facts["kind"] != kind).to_numpy()
    if other.any():
        shown = named(list(cases.loc[other, "case_id"]))
        verb = "is" if other.sum() == 1 else "are"
        return [f"All cases must be {kind}s, as most are, but {int(other.sum())} of {len(cases)} {verb} not: {shown}."]
    odd = readable & (facts["channels"] != channels).to_numpy()
    if odd.any():
        shown = named([f"{case} has {n}" for case, n in zip(cases.loc[odd, "case_id"], facts["channels"][odd])])
        plural = "s" * (channels != 1)
        return [
            f"All volumes must have {channels} channel{plural}, as most have, but {int(odd.sum())} have not: {shown}."
        ]
    return []


def _small(manifest: Manifest, empty: list[str]) -> list[str]:
    """Find classes with fewer patients than folds outside the test part."""
    small = []
    for name in manifest.classes:
        groups = {
            group
            for part in ("train", "validation")
            for label, group in zip(manifest.parts[part].label, manifest.parts[part].group, strict=True)
            if label == name
        }
        if name not in empty and len(groups) < manifest.folds:
            small.append(f"{name} has {len(groups)}")
    if not small:
        return []
    return [
        f"Every class must have at least as many {manifest.unit} as there are folds ({manifest.folds}) outside the "
        f"test part, but {named(small)}."
    ]


def _small_parts(manifest: Manifest) -> list[str]:
    """The same for data without classes: too few patients in all, or a part without cases."""
    groups = {group for part in ("train", "validation") for group in manifest.parts[part].group}
    if len(groups) < manifest.folds:
        return [
            f"There must be at least as many {manifest.unit} as there are folds ({manifest.folds}) outside the test "
            f"part, but there are {len(groups)}."
        ]
    lacking = [part for part in PARTS if not len(manifest.parts[part])]
    return [f"Every part must have cases, but {named(lacking)} has none."] if lacking else []


def _one_sided(manifest: Manifest, part: str, rule: str) -> list[str]:
    """Find labels of which a part has no positive or no negative case; `rule` begins the sentence."""
    odd = [
        f"{name} has {counts['positive']} positive and {counts['negative']} negative"
        for name, counts in _part(manifest, part).get("labels", {}).items()
        if not counts["positive"] or not counts["negative"]
    ]
    return [f"{rule} with and without, but {named(odd)} cases there."] if odd and len(manifest.parts[part]) else []


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
    """Return a sentence on images that lack the patient id, or the official part, that others have."""
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
    cases: pd.DataFrame, manifest: Manifest, exact: dict[str, Any], near: dict[str, Any], leakages: list[Leakage]
) -> list[str]:
    warnings = [*patients.warnings(cases), *_gaps(cases)]
    for part in ("validation", "test"):
        warnings += _one_sided(manifest, part, f"Some scores will be undefined: every label should occur in {part}")
    counts = manifest.class_counts("validation")
    few = [f"{name} has {counts[name]}" for name in manifest.classes if 0 < counts[name] < MIN_VALIDATION]
    if few:
        warnings.append(
            f"Scores will be coarse: a class should have {MIN_VALIDATION} validation cases, but {named(few)}."
        )
    if near["across"]:
        across = [pair for pair in near["pairs"] if pair["across"]]
        shown = named([f"{p['first']} and {p['second']} ({p['relation']})" for p in across])
        warnings.append(f"{near['across']} pairs of nearly equal pictures lie in different official parts: {shown}.")
    if exact["groups"]:
        warnings.append(
            f"{exact['images']} images are exact duplicates, in {exact['groups']} groups; a group stays in one part."
        )
    if manifest.excluded:
        shown = named([f"{case} ({why})" for case, why in manifest.excluded.items()])
        warnings.append(f"Left out of all parts, {len(manifest.excluded)} in number: {shown}.")
    for shortcut in leakages:
        if shortcut.alarm:
            warnings.append(
                f"Shortcut: {shortcut.feature} alone predicts the class with balanced accuracy "
                f"{shortcut.balanced_accuracy:.2f} (guessing {shortcut.chance:.2f}); {shortcut.example}. A model may "
                f"learn {f'the {shortcut.feature}' if shortcut.feature in metadata.NAMES else 'the files'} instead of "
                "the lungs."
            )
    return warnings
