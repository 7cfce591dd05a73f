"""Meanings of a table's columns by their well-known names.

Case, blanks and separators in names do not count: `Patient ID`, `PatientID` and `patient_id` are one name. A column
whose name differs slightly from a well-known one is not used, but named.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lungtune.data.inventory import Guess
from lungtune.data.sources._files import SPLIT_NAMES, named
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError, did_you_mean

_NAMES = {
    "path": "path filepath imagepath imgpath relativepath relpath filename imagefilename imagefile file image "
    "imagename imageindex img imgname fname dicompath dcmpath imageid imgid dicomid sopinstanceuid",
    "label": "label class classname classlabel target diagnosis finding findinglabel category disease condition dx",
    "patient": "patientid patient patientidentifier patientnumber patientno patientnr patientname patid pid ptid "
    "subjectid subject subjectnumber mrn participantid participant personid person",
    "split": "split dataset subset partition fold part phase datasplit settype set usage",
    "mask": "mask maskpath maskfile maskfilename maskname maskimage lungmask lungmaskpath segmentation "
    "segmentationpath segpath segmentationmask",
    "text": "text report caption reporttext radiologyreport findings impression description",
    "site": "site siteid hospital hospitalid institution institutionname center centre clinic dataset source origin",
    "scanner": "scanner scannermodel manufacturer manufacturermodelname model device vendor equipment",
    "view": "view viewposition projection appa frontallateral viewtype",
    "sex": "sex gender patientsex patientgender",
    "age": "age patientage ageyears ageinyears ageatstudy",
}
MEANINGS = {meaning: tuple(names.split()) for meaning, names in _NAMES.items()}
"""Meaning -> its well-known names, the usual one first."""

WORDS = {
    "path": "the image's path",
    "label": "the class",
    "patient": "the patient",
    "split": "the official part",
    "mask": "the lung mask",
    "text": "the text",
}
"""Meanings of which a table has one column each; columns of the others, the metadata, are joined."""

PARTS = {**SPLIT_NAMES, "validate": "validation"}
_CLOSE = 0.8


@dataclass(frozen=True)
class Columns:
    """Columns of a table by meaning.

    Attributes:
        of: meaning (in `WORDS`) -> its column.
        metadata: name of the metadata -> its columns.
        unused: columns without a use.
        notes: column -> why it is not used, of those that could be.
        guesses: a sentence for each column that could be meant.
    """

    of: dict[str, str]
    metadata: dict[str, list[str]]
    unused: list[str]
    notes: dict[str, str] = field(default_factory=dict)
    guesses: list[Guess] = field(default_factory=list)


def key(name: str) -> str:
    """Return a name without case, blanks and separators, for comparison."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def part(text: str) -> str | None:
    """Return the official part that a value means, such as `Val` or `training set`; None if none."""
    plain = re.sub(r"[\W_]*(set|data|dataset|split)$", "", text.strip().casefold())
    return PARTS.get(plain)


def find(table: Table, name: str, option: str) -> str:
    """Return the column that an option names, exactly or without regard to case and separators.

    Raises:
        DataError: there is none, or several.
    """
    for same in (str, str.casefold, key):
        matches = [column for column in table.columns if same(column) == same(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DataError(f"{option} must name one column, but {_both(matches)} of {table.file} fit {name!r}.")
    held = named(list(table.columns))
    raise DataError(
        f"{table.file} must have the column '{name}' that {option} names, but its columns are {held}."
        f"{did_you_mean(name, table.columns)}"
    )


def assign(table: Table, chosen: Mapping[str, str], claimed: Iterable[str]) -> Columns:
    """Find the column of each meaning.

    Args:
        table: the table.
        chosen: meaning -> column that an option names.
        claimed: columns with another use, which have no meaning here.

    Raises:
        DataError: two columns differ in case only, or have one meaning and say different things.
    """
    _distinct(table)
    taken = {*claimed, *chosen.values()}
    of, notes, names = dict(chosen), dict[str, str](), {column: key(column) for column in table.columns}
    for meaning in WORDS:
        if meaning in chosen:
            continue
        known = MEANINGS[meaning]
        fitting = [column for column in table.columns if names[column] in known and column not in taken]
        if meaning == "split":
            fitting = [column for column in fitting if names[column] == "split" or _parts(table[column])]
        filled = [column for column in fitting if any(table[column])]
        notes |= {column: "is empty" for column in fitting if column not in filled and meaning not in ("path", "label")}
        candidates = filled or (fitting[:1] if meaning in ("path", "label") else [])
        candidates.sort(key=lambda column: known.index(names[column]))
        if not candidates:
            continue
        of[meaning], *others = candidates
        for other in others:
            if not _same(table[of[meaning]], table[other]):
                raise DataError(
                    f"{table.file} must have one column for {WORDS[meaning]}, but {_both([of[meaning], other])} could "
                    f"be. Choose it, as in {meaning}={other}, or rename the other."
                )
            notes[other] = f"says the same as '{of[meaning]}'"
        taken |= {of[meaning]}
    metadata: dict[str, list[str]] = {}
    for meaning in MEANINGS.keys() - WORDS.keys():
        known = MEANINGS[meaning]
        free = [c for c in table.columns if names[c] in known and c not in {*of.values(), *notes} and any(table[c])]
        strong = [column for column in free if names[column] not in ("dataset", "source", "origin", "model")]
        if free:
            metadata[meaning] = sorted(strong or free, key=lambda column: known.index(names[column]))
    used = {*taken, *(column for columns in metadata.values() for column in columns)}
    unused = [column for column in table.columns if column not in used]
    guesses = [guess for column in unused if column not in notes and (guess := _close(column, of))]
    return Columns(of, metadata, unused, notes, guesses)


def _distinct(table: Table) -> None:
    seen: dict[str, str] = {}
    for column in table.columns:
        first = seen.setdefault(column.casefold(), column)
        if first != column:
            raise DataError(
                f"{table.file} must have columns of different names, but {_both([first, column])} differ in case only. "
                "Rename one."
            )


def _parts(values: Sequence[str]) -> bool:
    """True if a column holds official parts and nothing else."""
    held = set(values) - {""}
    return bool(held) and all(part(value) for value in held)


def _same(first: Sequence[str], second: Sequence[str]) -> bool:
    """True if two columns correspond value by value, one to one."""
    pairs = len(set(zip(first, second, strict=True)))
    return pairs == len(set(first)) == len(set(second))


def _close(column: str, of: Mapping[str, str]) -> Guess | None:
    """Return what a column's name resembles, among the meanings that no column has."""
    for meaning in WORDS.keys() - of.keys() - {"path", "label"}:
        known = [name for name in MEANINGS[meaning] if len(name) > 3]
        if key(column) not in known and difflib.get_close_matches(key(column), known, n=1, cutoff=_CLOSE):
            usual = {"patient": "patient_id"}.get(meaning, meaning)
            return Guess(
                "patients" if meaning == "patient" else meaning,
                f"The column '{column}' is not used. Did you mean '{usual}'?",
                f"{meaning}={column}",
            )
    return None


def _both(columns: Sequence[str]) -> str:
    return " and ".join(f"'{column}'" for column in columns)
