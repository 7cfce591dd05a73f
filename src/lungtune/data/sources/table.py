"""Table with one row per image or volume: CSV with any common separator and encoding, gzipped too, or Excel.

| column               | other names, with any case, blanks and separators | |
|----------------------|----------------------------------------|---|
| `path`               | filename, image, Image Index, ...      | relative to the table's folder, or to `images=DIR` |
| `label`              | class, diagnosis, finding, target, ... | optional; without it there are no classes |
| `patient_id`         | PatientID, subject_id, patient, ...    | optional; by default of a DICOM header |
| `split`              | dataset, subset, partition, ...        | optional: train, validation, test |
| `mask`, `text`       | mask_path, ...; report, caption, ...   | optional |
| `site`, `scanner`, `view`, `sex`, `age` | hospital, Manufacturer, gender, ... | optional metadata |

All names: `_columns.MEANINGS`. Options of the same names, such as `patient=COLUMN`, choose the column. Columns without
use are in the inventory. The format of a file is detected from its content: a DICOM file needs no suffix here.

`labels=a|b` names columns of 0, 1, -1 or blank: several labels of each case, which need not exclude one another; -1 is
uncertain, as CheXpert writes it, and blank is unknown. `labels=COLUMN,separator=;` names one column that lists the
labels a case has, as in `effusion;mass`. `columns=a|b` names columns of numbers or blank. Data without `label` serve
segmentation, several labels, or models without either.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core import paths as places
from lungtune.core.fields import UNCERTAIN
from lungtune.data import metadata
from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _columns, _labelled, _tables
from lungtune.data.sources._files import SPLIT_NAMES, header_patient, named, require_file, require_folder
from lungtune.data.sources._located import Locator, common_folders
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "a CSV or Excel table of path and optionally label, patient_id, split, mask, text, metadata, labels, numbers"
OPTIONS = {
    "labels": "columns of 0, 1 or blank (unknown), as in edema|effusion: several labels of each case",
    "separator": "what joins the labels of a case, where labels= names one column that lists them, as in effusion;mass",
    "columns": "columns of numbers or blank (unknown), as in age|sex: a table beside each case",
    "images": "folder that the paths are relative to (default: the table's)",
    "patient": "column of the patient, or a regular expression on the path; its first group is the patient id",
    **{meaning: f"column of {what}" for meaning, what in _columns.WORDS.items() if meaning != "patient"},
}
PATHS = ("images",)
_MISSING = frozenset({"nan", "n/a", "na", "null", "<na>", "nat", "#n/a"})  # what pandas, R and Excel write


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the rows of the table at `path`.

    Raises:
        DataError: not a table; two columns have one meaning, or a column or value is missing; a split is unknown, or a
            label is no single class; a value of `labels` or `columns` is no such number; or no file is there.
    """
    from lungtune.data.cases import label_name, table

    file = require_file(path, "table", "FILE.csv")
    root = require_folder(places.expanded(options["images"]), "images", option=True) if "images" in options else None
    content = _tables.read(file)
    lists = _columns.find(content, _one(options), "labels") if "separator" in options else None
    labels = (lists,) if lists else _listed("labels", options, content)
    label_names, listed = _labelled.separated(content, lists, options["separator"]) if lists else (labels, None)
    _labelled.require_distinct(label_names, content)
    unlisted = sum(not text for text in content[lists]) if lists else 0
    numbers = _listed("columns", options, content)
    pattern, chosen = None, dict[str, str]()
    for meaning in _columns.WORDS.keys() & options.keys():
        if meaning == "patient" and (pattern := _expression(options[meaning], content)):
            continue
        chosen[meaning] = _columns.find(content, options[meaning], meaning)
    columns = _columns.assign(content, chosen, {*labels, *numbers})
    _require(content, columns, bool(labels))
    inventory = _inventory(content, columns, labels, numbers)
    if unlisted:
        sentence = f"{unlisted:,} of {len(content):,} rows are blank in '{lists}' and count as without any label."
        inventory.guesses.append(Guess("labels", sentence))
    locator = Locator(root or file.parent, content.encoding)
    names = [locator.name(text) for text in _filled(content, columns.of["path"], "path")]
    paths = _files(content, names, locator, root or file.parent, inventory)
    classes = _classes(content, columns.of.get("label"), inventory)
    patients = _patients(content, columns.of.get("patient"), pattern, names, paths, inventory)
    details = {name: _metadata(content, name, held, inventory) for name, held in columns.metadata.items()}
    parts = _parts(content, columns.of.get("split"))
    rows: list[dict[str, Any]] = []
    masks, texts = (content.values.get(columns.of.get(meaning, ""), []) for meaning in ("mask", "text"))
    for k, (line, values) in enumerate(content):
        where = f"{file}:{line}"
        mask = locator.name(masks[k]) if masks and masks[k] else None
        rows.append(
            {
                "case_id": names[k],
                "path": paths[k],
                "label": classes[k],
                "patient_id": patients[k],
                "source": "table",
                "split": parts[k],
                "mask_path": mask and (locator.find(mask) or str((root or file.parent) / mask)),
                "text": (texts[k] or None) if texts else None,
                "labels": listed[k] if listed else tuple(_label(values[name], name, where) for name in labels) or None,
                "table": tuple(_number(values[name], name, where) for name in numbers) or None,
                **{name: column[k] for name, column in details.items()},
            }
        )
    inventory.masks = f"named in the column '{columns.of['mask']}'" if "mask" in columns.of else ""
    cases = table(
        rows, label_names=[label_name(name) for name in label_names], columns=[name.lower() for name in numbers]
    )
    cases.attrs["inventory"] = inventory
    return cases


def _expression(text: str, content: Table) -> re.Pattern[str] | None:
    """Return `patient=` as a regular expression; None if it names a column."""
    if any(_columns.key(column) == _columns.key(text) for column in content.columns if _columns.key(text)):
        return None
    if not re.search(r"[\\()\[\]^$.*+?]", text):
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise DataError(
            f"patient must name a column or be a regular expression, but {text!r} is neither: {error}."
        ) from error


def _listed(option: str, options: dict[str, str], content: Table) -> tuple[str, ...]:
    """Return the columns that `labels` or `columns` names.

    Raises:
        DataError: it names none, one twice, one that has a meaning of its own, or one that is not there.
    """
    if option not in options:
        return ()
    texts = [name.strip() for name in options[option].split("|")]
    if not all(texts):
        raise DataError(f"{option} must name columns, as in {option}=a|b, but got {options[option]!r}.")
    own = {"path", "patientid", "split", "mask", "text", *(["label"] if option == "columns" else [])}
    for text in texts:
        if _columns.key(text) in own:
            raise DataError(f"{option} must name further columns, but '{text}' has a meaning of its own.")
    names = [_columns.find(content, text, option) for text in texts]
    if len(set(names)) < len(names):
        raise DataError(f"{option} must name each column once, but got {options[option]!r}.")
    return tuple(names)


def _one(options: dict[str, str]) -> str:
    """Return the column that `labels` names beside `separator`.

    Raises:
        DataError: it names none, or the separator is empty.
    """
    if not options["separator"] or not options.get("labels"):
        raise DataError("separator must be given with labels, as in labels=finding,separator=; for effusion;mass.")
    return options["labels"]


def _require(content: Table, columns: _columns.Columns, labelled: bool) -> None:
    """Raise DataError without a path, or where the label seems to be misspelt."""
    for meaning in ("path", "label"):
        if meaning in columns.of:
            continue
        close = difflib.get_close_matches(meaning, [column.lower() for column in columns.unused], n=1)
        if meaning == "label" and (labelled or not close):
            return
        written = next((column for column in columns.unused if column.lower() in close), "")
        hint = f" Rename '{written}' to '{meaning}', or write {meaning}={written}." if close else ""
        if not close and meaning == "path":
            hint = " Name it, as in path=COLUMN; a table without column names needs a first line with them."
        raise DataError(
            f"{content.file} must have a column '{meaning}', but its columns are {named(list(content.columns))}.{hint}"
        )


def _inventory(content: Table, columns: _columns.Columns, labels: Sequence[str], numbers: Sequence[str]) -> Inventory:
    usual = {"patient": "patient_id"}
    used = {column: usual.get(meaning, meaning) for meaning, column in columns.of.items()}
    used |= {column: meaning for meaning, held in columns.metadata.items() for column in held}
    for names, what in ((labels, "one of the labels"), (numbers, "a number")):
        used |= {column: f"{used[column]}, {what}" if column in used else what for column in names}
    unused = [f"{name} ({columns.notes[name]})" if name in columns.notes else name for name in columns.unused]
    guesses = list(columns.guesses)
    if content.encoding in ("cp1252", "latin-1"):
        guesses.append(
            Guess("columns", f"{content.file.name} is not UTF-8 and was read as {content.encoding} (Western European).")
        )
    if content.unread:
        sheets = ", ".join(f"'{name}'" for name in content.unread)
        guesses.append(Guess("columns", f"Only the first sheet of {content.file.name} is read, not {sheets}."))
    ordered = {column: used[column] for column in content.columns if column in used}
    return Inventory(columns=ordered, unused=unused, guesses=guesses)


def _filled(content: Table, column: str, meaning: str) -> list[str]:
    """Return a column of which every row must have a value."""
    for row, value in enumerate(content[column]):
        if not value or (meaning == "label" and value.lower() in _MISSING):
            got = f"{value!r}" if value else "none"
            raise DataError(f"{content.where(row)}: every row must have a {meaning}, but this one has {got}.")
    return content[column]


def _files(content: Table, names: list[str], locator: Locator, root: Path, inventory: Inventory) -> list[str]:
    """Return the absolute path of every row's file, for a missing file the path at which it is expected.

    Raises:
        DataError: two rows name one file, or no file is there.
    """
    files = [locator.find(name) for name in names]
    folders = common_folders(names)
    for depth in range(1, len(folders) + 1) if not any(files) else ():
        beginning = "/".join(folders[:depth]).replace("//", "/") + "/"
        files = [locator.find(name.removeprefix(beginning)) for name in names]
        if any(files):
            sentence = f"Paths were taken without their beginning '{beginning}': the images lie in {root}."
            inventory.guesses.append(Guess("columns", sentence, f"images={root}"))
            break
    else:
        if not any(files):
            raise DataError(
                f"{content.file} must name images that are there, but none of {len(names):,} is: there is no "
                f"{root / names[0]}, for one. If they lie elsewhere, add images=FOLDER."
            )
    paths = [str(root / name) if file is None else file for name, file in zip(names, files, strict=True)]
    lines: dict[str, int] = {}
    for row, file in enumerate(paths):
        if file in lines:
            first = lines[file]
            other = "" if names[first] == names[row] else f" as {names[first]}"
            raise DataError(
                f"{content.where(row)}: each image must be listed once, but {names[row]} is in line "
                f"{content.lines[first]} too{other}."
            )
        lines[file] = row
    return paths


def _classes(content: Table, column: str | None, inventory: Inventory) -> Sequence[str | None]:
    """Return the class of every row.

    Raises:
        DataError: a row has none or several, one is the -1 of uncertain findings, or one class has two spellings.
    """
    from lungtune.data.cases import label_name

    if column is None:
        return [None] * len(content)
    texts = _filled(content, column, "label")
    spelt: dict[str, set[str]] = defaultdict(set)
    alike: dict[Any, str] = {}
    for text in dict.fromkeys(texts):
        row, number = texts.index(text), _parsed(text)
        if number == -1:
            raise DataError(
                f"{content.where(row)}: every case must have one class in '{column}', but {text!r} stands for an "
                f"uncertain finding. Read the column as labels, as in labels={column}, with chexpert:DIR or "
                "mimic_cxr:DIR where the data are theirs, or leave such rows out. If it is a class, give it a name."
            )
        if "|" in text:
            raise DataError(
                f"{content.where(row)}: every case must have one class in '{column}', but {text!r} names several. Give "
                "each finding a column of 0 and 1, as in labels=a|b, or use nih:DIR where the data are theirs."
            )
        name = label_name(text)
        spelt[name].add(text)
        same = alike.setdefault(unicodedata.normalize("NFKC", name) if number is None else number, name)
        if same != name:
            raise DataError(
                f"{content.file} must spell each class in one way, but has {sorted(spelt[same])[0]!r} and {text!r}."
            )
    merged = [sorted(texts) for texts in spelt.values() if len(texts) > 1]
    if merged:
        shown = named([" = ".join(texts) for texts in merged])
        inventory.columns[column] = f"{inventory.columns[column]} (spellings of one class: {shown})"
    known = {text: name for name, texts in spelt.items() for text in texts}
    return [known[text] for text in texts]


def _patients(
    content: Table,
    column: str | None,
    pattern: re.Pattern[str] | None,
    names: list[str],
    paths: list[str],
    inventory: Inventory,
) -> list[str | None]:
    """Return the patient of every row, or None: of the expression, the column, or DICOM headers.

    Raises:
        DataError: the expression matches no path.
    """
    if pattern is not None:
        matches = [pattern.search(name) for name in names]
        ids = [(m.group(1) if m.re.groups else m.group(0)) if m else None for m in matches]
        count = sum(match is not None for match in matches)
        if not count:
            raise DataError(f"patient must match the images' paths, but {pattern.pattern!r} matches none: {names[0]}.")
        inventory.patients = f"by {pattern.pattern} on the path, of {count:,} of {len(names):,} images"
        return ids
    if column is not None:
        inventory.patients = f"named in the column '{column}'"
        return [text or None for text in content[column]]
    ids = [header_patient(Path(path)) for path in paths]
    if any(ids):
        inventory.patients = f"in the DICOM headers of {sum(id is not None for id in ids):,} images"
    return ids


def _parts(content: Table, column: str | None) -> list[str | None]:
    """Return the official part of every row, or None.

    Raises:
        DataError: a value is no part.
    """
    if column is None:
        return [None] * len(content)
    for row, text in enumerate(content[column]):
        if text and _columns.part(text) is None:
            raise DataError(
                f"{content.where(row)}: split must be empty or one of {', '.join(SPLIT_NAMES)}, but got {text!r}."
            )
    return [_columns.part(text) for text in content[column]]


def _metadata(content: Table, name: str, held: list[str], inventory: Inventory) -> list[Any]:
    """Return one kind of metadata of every row."""
    texts = [" ".join(filter(None, row)) for row in zip(*(content[column] for column in held), strict=True)]
    known = {text: metadata.value(name, text) for text in set(texts)}
    lost = Counter(text for text in texts if text and known[text] is None)
    if lost:
        shown = named([f"{text!r} {count:,}" for text, count in lost.most_common(3)])
        inventory.columns[held[0]] = f"{inventory.columns[held[0]]} (unknown: {shown})"
    return [known[text] for text in texts]


def _label(text: str, name: str, where: str) -> float | None:
    if _labelled.is_blank(text):
        return None
    value = _cell(text)
    if value in (0.0, 1.0):
        return value
    if value == -1.0:
        return UNCERTAIN
    raise DataError(f"{where}: {name} must be 0, 1, -1 (uncertain) or blank (unknown), but got {text!r}.")


def _number(text: str, name: str, where: str) -> float | None:
    if _labelled.is_blank(text):
        return None
    value = _cell(text)
    if value is None:
        raise DataError(f"{where}: {name} must be a number or blank, but got {text!r}; write categories as numbers.")
    return value


def _cell(text: str) -> float | None:
    """Return the finite number that a cell of labels or numbers holds, or None."""
    try:
        value = _labelled.number(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _parsed(text: str) -> float | None:
    """Return a finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
