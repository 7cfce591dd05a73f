"""Patients in file names: the option `patient=`, and recognition of well-known names without it.

Patients recognised in names are a guess that the user must confirm. A number in two official parts may belong to one
person or to two, because numbering may restart in each part. The proposed expression therefore separates the numbers of
the test part from the others, unless two files of one number in different parts have the same bytes. `data.guesses`
replaces it if decoded pictures of one number are the same in both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _names
from lungtune.data.sources._files import header_patient
from lungtune.errors import DataError

OPTION = {
    "patient": "regular expression on the path relative to the folder: its groups are the patient id (default: of "
    "DICOM headers); none: each image is a patient of its own"
}
_PIECES = (
    re.compile(r"(?<![A-Za-z])((?:normal\d*-)?im-)(\d+)(?=-\d)", re.IGNORECASE),
    re.compile(r"(?<![A-Za-z])((?:normal|bacteria|virus)-)(\d+)(?=-\d)", re.IGNORECASE),
    re.compile(
        r"(?<![A-Za-z])((?:persons?|patients?|participant|subjects?|subj|sub|case|pat|pid|pt|id|p)[ _-]?)(\d+)(?!\d)",
        re.IGNORECASE,
    ),
    re.compile(r"^()(\d{5,})(?=[_-]\d{1,4}(?!\d))"),
)
"""Word, and number of the patient: IM-0115-0001, BACTERIA-1008087-0001, person12_virus_3, sub-01, 00012345_003."""

_NO_PATIENT = _names.word_set(
    "fold batch part set group site series version v year images image class stage scanner hospital center centre "
    "archive subset chunk dir folder study view"
)
_MOST = 0.5  # greatest share of images of one patient
_PATIENT_FOLDERS = 5  # least number of folders that may be patients


def add_patients(
    rows: Sequence[MutableMapping[str, Any]], options: dict[str, str], inventory: Inventory
) -> dict[str, Any]:
    """Set `patient_id` in the rows of a case table: from the option `patient`, else from DICOM headers.

    Args:
        rows: one mapping per image; `case_id`, `path` and `split` are read.
        options: the source's options.
        inventory: gets how patients were identified; a guess where names look like patients.

    Returns:
        Attributes of the case table: `restarts`, True if the part's name sets the ids of the test part apart from the
        others'; `patients_regardless`, the proposed option that ignores the part, if another one is proposed.

    Raises:
        DataError: the option is no regular expression, or matches no image.
    """
    text, pattern = options.get("patient"), expression(options)
    if text == "none":
        for row in rows:
            row["patient_id"] = None
        inventory.patients = "each image is a patient of its own (patient=none)"
        return {}
    if pattern is not None:
        return {"restarts": _by_expression(rows, pattern, inventory)}
    for row in rows:
        row["patient_id"] = header_patient(Path(row["path"]))
    known = [row["patient_id"] for row in rows if row["patient_id"]]
    if known:
        inventory.patients = f"PatientID of {len(known):,} of {len(rows):,} DICOM headers, {len(set(known)):,} patients"
        return {}
    guess, regardless = propose([(row["case_id"], row.get("split"), Path(row["path"])) for row in rows])
    if guess is not None:
        inventory.guesses.append(guess)
    return {"patients_regardless": regardless} if regardless else {}


def expression(options: dict[str, str]) -> re.Pattern[str] | None:
    """Return the option `patient` as a regular expression; None without it and for `none`.

    Raises:
        DataError: it is none.
    """
    text = options.get("patient")
    if text is None or text == "none":
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(f"patient must be a regular expression or none, but {text!r} is not: {error}.") from error


def _by_expression(rows: Sequence[MutableMapping[str, Any]], pattern: re.Pattern[str], inventory: Inventory) -> bool:
    """Set `patient_id` by a regular expression; return True if the test part's ids begin with the part's name."""
    text, where = pattern.pattern, "relative path"
    matches = [pattern.search(row["case_id"]) for row in rows]
    if not any(matches):
        where = "file name"
        matches = [pattern.search(PurePosixPath(row["case_id"]).name) for row in rows]
    ids = [patient_in(match) for match in matches]
    if not any(ids):
        raise DataError(
            f"patient must match the images' paths relative to the folder, but {text!r} matches none of {len(rows)}, "
            f"such as {rows[0]['case_id']}. With patient=none each image is a patient of its own."
        )
    for row, patient in zip(rows, ids, strict=True):
        row["patient_id"] = patient
    known = [patient for patient in ids if patient]
    inventory.patients = (
        f"patient={text} on the {where}: {len(known):,} of {len(rows):,} images, {len(set(known)):,} patients"
    )
    unmatched = [row["case_id"] for row, patient in zip(rows, ids, strict=True) if not patient]
    if unmatched:
        inventory.guesses.append(
            Guess(
                "patients",
                f"patient={text} does not match {len(unmatched):,} of {len(rows):,} images, such as {unmatched[0]}: "
                "each of these counts as a patient of its own.",
            )
        )
    return any(match.groups() and _names.part(match.group(1) or "") for match in matches if match)


def patient_in(match: re.Match[str] | None) -> str | None:
    """Return the patient in a match: its groups joined, or all of it without groups."""
    if match is None:
        return None
    return "/".join(filter(None, match.groups())) or None if match.groups() else match.group(0) or None


def propose(images: Sequence[tuple[str, str | None, Path]]) -> tuple[Guess | None, str]:
    """Return a guess if names look like patients with several images each, else None.

    Args:
        images: path relative to the data set's root with `/`, official part, and file of each image.

    Returns:
        The guess, and the option without the part where the guess's expression has it, else an empty string.
    """
    paths = [path for path, _, _ in images]
    ids, core = _pieces(paths)
    if not _merges(paths, ids):
        ids, core = _folders(paths)
        if not _merges(paths, ids):
            return None, ""
    plain = next((text for text in _spelled(core, "") if _gives(text, paths, ids)), None)
    if plain is None:
        return None, ""
    known = [patient for patient in ids if patient is not None]
    largest = _largest(known)
    several = [path for path, patient in zip(paths, ids, strict=True) if patient == largest]
    sentence = (
        f"No patients were given, but the names of {len(known):,} of {len(paths):,} images look like those of "
        f"{len(set(known)):,} patients: {several[0]} and {several[1]}, for example, look like one patient's. "
        "As it is, each image would count as a patient of its own."
    )
    option, regardless = f"patient={plain}", ""
    within = _tested(images, ids, core)
    if within is not None:
        option, regardless = f"patient={within}", option
        sentence += (
            " Numbers of the test part occur in the other parts too: the expression takes them for other people, as "
            "numbering may restart."
        )
    return Guess("patients", sentence, option, stops=True), regardless


def _tested(images: Sequence[tuple[str, str | None, Path]], ids: Sequence[str | None], core: str) -> str | None:
    """Return the expression with the part's name; None where no number is in the test part and in another one.

    None too if two files of one number, in the test part and in another, have the same bytes: then numbering does not
    restart.
    """
    sides: tuple[dict[str, list[Path]], dict[str, list[Path]]] = ({}, {})
    for (_, split, file), patient in zip(images, ids, strict=True):
        if split and patient:
            sides[split == "test"].setdefault(patient, []).append(file)
    shared = sides[0].keys() & sides[1].keys()
    if not shared or any(_same_file(sides[0][patient], sides[1][patient]) for patient in shared):
        return None
    parts = {
        split: name
        for path, split, _ in images
        if split
        for name in PurePosixPath(path).parts[:-1]
        if _names.part(name) == split
    }
    test, others = parts.get("test"), [re.escape(name) for split, name in parts.items() if split != "test"]
    if test is None or not others:
        return None
    # validation is cut from training as a rule: it shares its numbers
    which = (
        f"({'|'.join([*others, re.escape(test)])})"
        if len(others) == 1
        else (f"(?:{'|'.join(others)}|({re.escape(test)}))")
    )
    paths = [path for path, _, _ in images]
    wanted = [
        patient and "/".join(filter(None, [_prefix(path, split, len(others) == 1), patient]))
        for (path, split, _), patient in zip(images, ids, strict=True)
    ]
    return next((text for text in _spelled(core, which) if _gives(text, paths, wanted)), None)


def _prefix(path: str, split: str | None, always: bool) -> str:
    if split is None or not (always or split == "test"):
        return ""
    return next(name for name in PurePosixPath(path).parts if _names.part(name) == split)


def _same_file(one: Sequence[Path], other: Sequence[Path]) -> bool:
    """True if a file of one list has the bytes of one of the other."""
    try:
        sizes = {size for file in one if (size := file.stat().st_size)}
        twins = {file for file in other if file.stat().st_size in sizes}
        if not twins:
            return False
        contents = {file.read_bytes() for file in one if file.stat().st_size in {twin.stat().st_size for twin in twins}}
        return any(twin.read_bytes() in contents for twin in twins)
    except OSError:
        return False


def _pieces(paths: Sequence[str]) -> tuple[list[str | None], str]:
    """Return the id in each path by the well-known names, None where there is none, and the expression of all ids."""
    prefixes: Counter[str] = Counter()
    lengths: set[int] = set()
    ids: list[str | None] = []
    for path in paths:
        match = _piece(path)
        ids.append(match.group(0) if match else None)
        if match and match.group(1):
            prefixes[match.group(1)] += 1
        elif match:
            lengths.add(len(match.group(2)))
    words = sorted(prefixes, key=lambda prefix: (-len(prefix), prefix))
    alternatives = [f"{_escaped(word)}\\d+" for word in words]
    if lengths:
        low, high = min(lengths), max(lengths)
        alternatives.append(f"\\d{{{low}}}(?=[_-]\\d)" if low == high else f"\\d{{{low},{high}}}(?=[_-]\\d)")
    return ids, f"({'|'.join(alternatives)})"


def _piece(path: str) -> re.Match[str] | None:
    """Return the match of the patient in a path: in the file's name, else in the lowest folder that has one."""
    pure = PurePosixPath(path)
    for name in (pure.stem, *reversed(pure.parts[:-1])):
        for piece in _PIECES if name == pure.stem else _PIECES[2:3]:
            match = piece.search(name)
            if match:
                return match
    return None


def _folders(paths: Sequence[str]) -> tuple[list[str | None], str]:
    """Return the folder that holds each image, if they may be patients, and the expression of all of them."""
    depths = Counter(path.count("/") for path in paths)
    depth, count = depths.most_common(1)[0]
    holders = [PurePosixPath(path).parts[depth - 1] if path.count("/") == depth else None for path in paths]
    distinct = {holder for holder in holders if holder is not None}
    numbered = [
        name
        for name in distinct
        if any(c.isdigit() for c in name) and not _NO_PATIENT.intersection(_names.words(name)) and not _names.part(name)
    ]
    if depth < 2 or count < len(paths) / 2 or len(distinct) < _PATIENT_FOLDERS or len(numbered) < 0.9 * len(distinct):
        return [None] * len(paths), ""
    return list(holders), f"^(?:[^/]+/){{{depth - 1}}}([^/]+)/[^/]+$"


def _merges(paths: Sequence[str], ids: Sequence[str | None]) -> bool:
    """True if ids join images of different names, and none covers most images."""
    names: dict[str, set[str]] = {}
    for path, patient in zip(paths, ids, strict=True):
        if patient is not None:
            names.setdefault(patient, set()).add(PurePosixPath(path).name)
    known = [patient for patient in ids if patient is not None]
    if not any(len(held) > 1 for held in names.values()) or len(names) < 2:
        return False
    return known.count(_largest(known)) <= max(_MOST * len(known), 4)


def _largest(ids: Iterable[str]) -> str:
    return Counter(ids).most_common(1)[0][0]


def _spelled(core: str, part: str) -> Iterator[str]:
    """Yield expressions of the same patients, the shortest first; `part` matches the part's folder, or is empty."""
    if core.startswith("^"):
        yield f"{part}/.*?([^/]+)/[^/]+$" if part else core
        return
    for before in ("", "/", "(?:^|/)", "(?<![A-Za-z])", "/(?:.*/)?", "(?:.*/)?(?<![A-Za-z])"):
        yield f"{part}/.*?{before}{core}" if part else f"{before}{core}"
    for before in ("/", "(?<![A-Za-z])"):
        yield f"{part}/.*{before}{core}" if part else f"^.*{before}{core}"


def _gives(text: str, paths: Sequence[str], ids: Sequence[str | None]) -> bool:
    """True if an expression gives these ids."""
    pattern = re.compile(text)
    return all(patient_in(pattern.search(path)) == wanted for path, wanted in zip(paths, ids, strict=True))


def _escaped(text: str) -> str:
    return re.escape(text).replace("\\-", "-").replace("\\ ", " ").replace("\\_", "_")
