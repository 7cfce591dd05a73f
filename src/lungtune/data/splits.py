"""Split into training, validation and test parts that share no patient and no image.

Rules, applied in this order:

1. Unreadable images, and pictures that occur with contradictory labels, are excluded.
2. Cases are grouped by the union of patient id and duplicate picture (exact, copy or look-alike). A group is in one
   drawn part only. Look-alikes with different patient ids are not joined.
3. An official test part is unchanged. A training image that is nearly equal to a test image is excluded with its exact
   duplicates; if it is a copy, so is its whole group. One with the same bytes, pixels or patient as a test image is
   excluded only with the source's option `leaks=drop`; otherwise the audit reports a problem.
4. An official validation part is used only if it has at least `MIN_VALIDATION` cases of every class and shares no
   group with training; otherwise it is merged into training. Without classes it needs as many cases in all, and a
   positive and a negative case of every label.
5. Without an official test part, a fifth of the training cases is held out. That draw depends on the data only, not on
   seed or fold, so no seed moves test images into training.
6. Unless rule 4 used it, validation is fold `fold` of `folds` stratified folds drawn with `seed`.

Draws are stratified by the label; for multi-label data without a class, by each case's rarest positive label; without
labels they are not stratified.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungtune.core import paths
from lungtune.core.io import write_atomic
from lungtune.data import metadata
from lungtune.data.cases import classes_of, label_values, strata
from lungtune.data.duplicates import Pair, Union, exact_groups, near_pairs
from lungtune.data.manifest import PARTS, Entries, Manifest
from lungtune.data.masks import mask_columns
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MIN_VALIDATION = 30
"""Least number of validation cases of a class: one case changes its recall by at most 3.3 points."""

TEST_FOLDS = 5
_TRIES = 20  # StratifiedGroupKFold is greedy and may leave a part without a class; another shuffle often does not


@dataclass(frozen=True)
class Links:
    """Links between cases.

    Attributes:
        exact: groups of rows with the same bytes or pixels.
        near: copies, and look-alikes whose patient ids do not differ; a row also represents its exact duplicates.
        groups: group name of every row, `(N,)`.
        sure: group number of every row by patient and exact duplicates only, `(N,)` int64.
    """

    exact: list[list[int]]
    near: list[Pair]
    groups: np.ndarray
    sure: np.ndarray


def link(cases: pd.DataFrame, facts: pd.DataFrame) -> Links:
    """Group cases by patient and duplicate picture.

    Args:
        cases: the case table, N rows.
        facts: result of `scan` for `cases["path"]`, same order.
    """
    exact = exact_groups(facts)
    near = [pair for pair in near_pairs(facts) if pair.kind == "copy" or not _known_apart(cases, pair)]
    sure = Union(len(cases))
    patients: dict[str, int] = {}
    for row, patient in enumerate(cases["patient_id"]):
        if patient is not None:
            sure.join((patients.setdefault(patient, row), row))
    for group in exact:
        sure.join(group)
    roots = [sure.find(row) for row in range(len(cases))]
    union = Union(len(cases))
    for row, root in enumerate(roots):
        union.join((root, row))
    official = _official_test(cases)
    for pair in near:
        if official[pair.first] == official[pair.second]:  # else the training case is excluded instead
            union.join((pair.first, pair.second))
    names = cases["patient_id"].where(cases["patient_id"].notna(), cases["case_id"]).to_numpy(dtype=object)
    groups = np.array([names[union.find(row)] for row in range(len(cases))], dtype=object)
    return Links(exact, near, groups, np.array(roots, dtype=np.int64))


@dataclass
class _Draft:
    part: np.ndarray  # (N,) object: train, validation, test, or "" when left out
    reasons: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, row: int, reason: str) -> None:
        self.part[row] = ""
        self.reasons.setdefault(row, reason)


def make_manifest(
    cases: pd.DataFrame,
    facts: pd.DataFrame,
    *,
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    source: str = "",
    links: Links | None = None,
    masks: pd.DataFrame | None = None,
) -> Manifest:
    """Assign every case to a part. Does not raise for bad data: `audit` reports problems of the result.

    Args:
        cases: the case table.
        facts: result of `scan` for `cases["path"]`, same order.
        folds: number of folds; validation is one of them.
        fold: index of the validation fold, 0 <= fold < folds.
        seed: of the draw.
        source: the data source as the user wrote it.
        links: result of `link`, if it has been called.
        masks: result of `scan_masks` for `cases`; without it no case has a mask.

    Raises:
        DataError: `folds` or `fold` is out of range.
    """
    if folds < 2:
        raise DataError(f"folds >= 2 must hold, but got {folds}.")
    if not 0 <= fold < folds:
        raise DataError(f"0 <= fold < {folds} must hold, but got {fold}.")
    links = links or link(cases, facts)
    labels = strata(cases)
    how = "grouped and stratified" if len(set(labels)) > 1 else "grouped"
    draft = _Draft(part=np.full(len(cases), "train", dtype=object))
    _leave_out(draft, cases, facts, links)
    draft.part[(draft.part != "") & _official_test(cases)] = "test"
    tested = bool((draft.part == "test").any())
    if tested:
        draft.notes.append("test: the official part.")
        _leave_out_leaks(draft, cases, links)
    validated = _use_official_validation(draft, cases, labels, links.groups)
    if not tested:
        _move(draft, "train", "test", labels, links.groups, TEST_FOLDS, 0, 0)
        share = f"a fifth ({100 / TEST_FOLDS:.0f} %)"
        draft.notes.append(f"test: no official part, so {share} is held out by group, the same for every seed.")
    if not validated:
        _move(draft, "train", "validation", labels, links.groups, folds, fold, seed)
        draft.notes.append(f"validation: fold {fold} of {folds}, {how}, seed {seed}.")
    parts, (mask, mask_sha1) = {}, mask_columns(masks, len(cases))
    for part in PARTS:
        rows = np.flatnonzero(draft.part == part)
        parts[part] = Entries(
            case_id=tuple(cases["case_id"].iloc[rows]),
            label=tuple(cases["label"].iloc[rows]),
            group=tuple(links.groups[rows]),
            sha1=tuple(facts["sha1"].iloc[rows]),
            path=tuple(cases["path"].iloc[rows]),
            mask=tuple(mask[row] for row in rows),
            mask_sha1=tuple(mask_sha1[row] for row in rows),
            text=tuple(cases["text"].iloc[rows]),
            labels=tuple(cases["labels"].iloc[rows]),
            table=tuple(cases["table"].iloc[rows]),
            metadata=metadata.columns(cases, rows),
        )
    kind, channels = kind_of(facts)
    excluded = {str(cases["case_id"].iloc[row]): reason for row, reason in sorted(draft.reasons.items())}
    return Manifest(
        classes=classes_of(cases),
        parts=parts,
        excluded=excluded,
        seed=seed,
        folds=folds,
        fold=fold,
        source=source,
        notes=tuple(draft.notes),
        label_names=tuple(cases.attrs.get("label_names", ())),
        columns=tuple(cases.attrs.get("columns", ())),
        kind=kind,
        channels=channels,
        patients=int(cases["patient_id"].notna()[draft.part != ""].sum()),
    )


def _known_apart(cases: pd.DataFrame, pair: Pair) -> bool:
    """True if patient ids show that two cases are different patients."""
    first, second = cases["patient_id"].iloc[pair.first], cases["patient_id"].iloc[pair.second]
    if first is None or second is None or first == second:
        return False
    splits = cases["split"].iloc[pair.first], cases["split"].iloc[pair.second]
    return not (cases.attrs.get("restarts") and (splits[0] == "test") != (splits[1] == "test"))


def _official_test(cases: pd.DataFrame) -> np.ndarray:
    return (cases["split"] == "test").to_numpy(dtype=bool)


def _leave_out(draft: _Draft, cases: pd.DataFrame, facts: pd.DataFrame, links: Links) -> None:
    for row, error in enumerate(facts["error"]):
        if error is not None:
            draft.drop(row, f"unreadable: {error}")
    test, values = _official_test(cases), label_values(cases)
    for group in links.exact:
        labels = sorted(set(cases["label"].iloc[group].dropna()))
        observed = [set(column[~np.isnan(column)]) for column in values[group].T]
        odd = [
            name
            for name, distinct in zip(cases.attrs.get("label_names", ()), observed, strict=True)
            if len(distinct) > 1
        ]
        if len(labels) > 1:
            reason = f"the same picture is labelled {' and '.join(labels)}"
        elif odd:
            reason = f"the same picture is labelled both with and without {' and '.join(odd)}"
        else:
            continue
        for row in group:
            if not test[row]:
                draft.drop(row, reason)


def _leave_out_leaks(draft: _Draft, cases: pd.DataFrame, links: Links) -> None:
    """Exclude training cases nearly equal to a test case; with `leaks=drop` also exact duplicates and same patients."""
    ids = cases["case_id"].to_numpy(dtype=object)
    if cases.attrs.get("leaks") == "drop":
        tested = {int(links.sure[row]): row for row in np.flatnonzero(draft.part == "test")[::-1]}
        for row in map(int, np.flatnonzero(draft.part == "train")):
            if int(links.sure[row]) in tested:
                draft.drop(row, f"same patient or picture as the test case {ids[tested[int(links.sure[row])]]}")
    same = {row: group for group in links.exact for row in group}
    official = _official_test(cases)
    for pair in links.near:
        for row, other in ((pair.first, pair.second), (pair.second, pair.first)):
            tests = [twin for twin in same.get(other, [other]) if draft.part[twin] == "test"]
            rows = [twin for twin in same.get(row, [row]) if not official[twin]]
            if not tests or not rows:
                continue
            reason = f"{pair.kind} of the test case {ids[tests[0]]}"
            for twin in rows:
                draft.drop(twin, reason)
            mates = [int(k) for k in np.flatnonzero(links.groups == links.groups[row])] if pair.kind == "copy" else []
            for mate in mates:
                if draft.part[mate] == "train":
                    draft.drop(int(mate), f"same patient or picture as {ids[rows[0]]}, a {reason}")


def _use_official_validation(draft: _Draft, cases: pd.DataFrame, labels: np.ndarray, groups: np.ndarray) -> bool:
    """Move the official validation part out of training if rule 4 allows; note the result; return True if moved."""
    official = (cases["split"] == "validation").to_numpy(dtype=bool) & (draft.part == "train")
    if not official.any():
        return False
    size = int(official.sum())
    rest = (draft.part == "train") & ~official
    least = min((int((labels[official] == label).sum()) for label in classes_of(cases)), default=MIN_VALIDATION)
    values = label_values(cases)[official]
    if least < MIN_VALIDATION:
        why = f"a class has {least} of the {MIN_VALIDATION} cases it needs"
    elif size < MIN_VALIDATION:
        why = f"it needs {MIN_VALIDATION} cases"
    elif not ((values == 1).any(axis=0) & (values == 0).any(axis=0)).all():
        why = "a label has no positive or no negative case in it"
    elif shared := set(groups[official]) & set(groups[rest]):
        why = f"it shares {len(shared)} patients or pictures with training"
    elif not rest.any():
        why = "there would be no training part"
    else:
        draft.part[official] = "validation"
        draft.notes.append(f"validation: the official part of {size} cases.")
        return True
    draft.notes.append(f"The official validation part of {size} cases is merged into training: {why}.")
    return False


def _move(
    draft: _Draft, source: str, target: str, labels: np.ndarray, groups: np.ndarray, folds: int, fold: int, seed: int
) -> None:
    """Move one stratified fold of whole groups from part `source` to `target`; none if there are too few groups."""
    rows = np.flatnonzero(draft.part == source)
    chosen = draw(labels[rows], groups[rows], folds=folds, fold=fold, seed=seed)
    draft.part[rows[chosen]] = target


def draw(labels: np.ndarray, groups: Sequence[str] | np.ndarray, *, folds: int, fold: int, seed: int) -> np.ndarray:
    """Return the positions in fold `fold` of `folds` stratified folds of whole groups, ascending.

    Uses the first of up to 20 shuffles whose folds and complements all have every class, else the one that lacks
    fewest. The result is empty if there are fewer groups than folds, or no class has `folds` cases.

    Args:
        labels: `(N,)` class names, or other strata; all the same for no stratification.
        groups: `(N,)` group names.
        folds: number of folds.
        fold: index of the fold.
        seed: of the first shuffle.
    """
    if len(set(groups)) < folds:
        return np.zeros(0, dtype=np.int64)
    drawn = _kept(labels, groups, folds, fold, seed)
    if drawn.is_file():
        with contextlib.suppress(OSError, ValueError, EOFError):
            return np.load(drawn, allow_pickle=False)
    positions = _draw(labels, groups, folds, fold, seed)
    with contextlib.suppress(OSError):
        drawn.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.save(buffer, positions)
        write_atomic(drawn, buffer.getvalue())
    return positions


def _kept(labels: np.ndarray, groups: Sequence[str] | np.ndarray, folds: int, fold: int, seed: int) -> Path:
    """Return the cache file of a draw, which saves the slow import of scikit-learn."""
    decides = [list(map(str, labels)), list(map(str, groups)), folds, fold, seed, _TRIES, version("scikit-learn")]
    return paths.cache() / "splits" / f"{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:32]}.npy"


def _draw(labels: np.ndarray, groups: Sequence[str] | np.ndarray, folds: int, fold: int, seed: int) -> np.ndarray:
    """Draw without the cache; see :func:`draw`."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    classes, codes = np.unique(labels.astype(str), return_inverse=True)
    _, numbers = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if np.bincount(codes).max() < folds:
        return np.zeros(0, dtype=np.int64)
    best: tuple[int, list[np.ndarray]] | None = None
    for attempt in range(_TRIES):
        state = np.random.RandomState([seed % 2**32, attempt])
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=state)
        with warnings.catch_warnings():  # the audit reports the small class itself
            warnings.filterwarnings("ignore", message="The least populated class")
            tests = [held for _, held in splitter.split(codes, codes, numbers)]
        total = np.bincount(codes, minlength=len(classes))
        counts = np.array([np.bincount(codes[held], minlength=len(classes)) for held in tests])
        missing = int((counts == 0).sum() + (counts == total).sum())
        if best is None or missing < best[0]:
            best = (missing, tests)
        if missing == 0:
            break
    assert best is not None
    return np.sort(best[1][fold])


def kind_of(facts: pd.DataFrame) -> tuple[str, int]:
    """Return the kind of most readable cases, `image` or `volume`, and the commonest number of channels among them."""
    readable = facts[facts["error"].isna()]
    volumes = readable[readable["kind"] == "volume"]
    if 2 * len(volumes) <= len(readable):
        return "image", 1
    return "volume", Counter(volumes["channels"]).most_common(1)[0][0]
