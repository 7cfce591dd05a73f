"""Common parts of the sources with several labels a case: choice of labels and views, files, inventory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.core.fields import UNCERTAIN
from lungtune.data import metadata
from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources._files import named
from lungtune.data.sources._published import identifier, not_there
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

OPTIONS = {
    "labels": "only these, as in edema|cardiomegaly (default: all)",
    "view": "frontal, pa, ap or lateral: only images of that view (default: all)",
}
CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""Observations of the CheXpert labeller (Irvin et al. 2019), which MIMIC-CXR has too."""

BLANK = {"blank": "negative: what a report does not mention is absent (default); unknown: it does not count"}
MISSING = frozenset({"", "nan", "n/a", "na", "null", "none", "<na>", "nat", "#n/a"})
_ABSENT = ("", "nofinding", "nofindings", "normal", "none", "nan", "healthy")
_BRACKETS, _QUOTES = "[](){} ", "'\" "
_VIEWS = {"frontal": ("AP", "PA", "FRONTAL"), "pa": ("PA",), "ap": ("AP",), "lateral": ("LATERAL",)}
_WORDS = {"L": "LATERAL", "LL": "LATERAL", "LATERAL": "LATERAL", "PA": "PA", "FRONTAL": "FRONTAL"}


@dataclass(frozen=True)
class Record:
    """One image.

    Attributes:
        case_id: see `cases.COLUMNS`.
        path: absolute; None if it is not there.
        labels: name as published -> 0, `UNCERTAIN`, 1 or None.
        patient: id, or None.
        split: official part, or None.
        text: report, or None.
        about: further metadata as written, by name (`metadata.NAMES`).
    """

    case_id: str
    path: str | None
    labels: Mapping[str, float | None]
    patient: str | None = None
    split: str | None = None
    text: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)


def cases_of(
    source: str,
    records: Iterable[Record],
    names: Sequence[str],
    options: Mapping[str, str],
    inventory: Inventory,
    root: Path,
    left: Mapping[Path, str] | None = None,
) -> pd.DataFrame:
    """Return the case table of a data set.

    Images that are not there, and those of other views than asked for, are left out and counted.

    Args:
        source: name of the source.
        records: all images that the tables list.
        names: of the labels, as published.
        options: of the user: `labels` and `view` are read.
        inventory: filled in with files and views.
        root: the data's folder, for errors.
        left: further images below it that are not used -> why.

    Raises:
        DataError: a label or a view is unknown, an image is listed twice with different labels, no image is there, or
            none has the view.
    """
    from lungtune.data.cases import label_name, table

    chosen, views = _chosen(options.get("labels"), names), _views(options.get("view"))
    rows: list[dict[str, Any]] = []
    absent, other, seen = Counter[str](), Counter[str](), Counter[str]()
    example, first, counted = "", dict[str, Record](), dict[Path, str]()
    for record in records:
        if record.case_id in first:
            _require_alike(record, first[record.case_id], root)
            inventory.leave("listed again, with the same labels", Path(record.case_id).suffix.lower())
            continue
        first[record.case_id] = record
        view = _view(record.about.get("view", ""))
        if record.path is None:
            absent[Path(record.case_id).suffix.lower()] += 1
            example = example or record.case_id
            continue
        if views and view not in views:
            other[view or "view unknown"] += 1
            counted[Path(record.path)] = ""
            continue
        seen[view or ""] += 1
        about = {name: metadata.value(name, text) for name, text in record.about.items() if name != "view"}
        rows.append(
            {
                "case_id": record.case_id,
                "path": record.path,
                "patient_id": record.patient and identifier(record.patient),
                "source": source,
                "split": record.split,
                "text": record.text,
                "labels": tuple(record.labels.get(name) for name in chosen),
                **about,
                "view": view,
            }
        )
    if not rows and other:
        raise DataError(f"view must be one that images have, but got {options['view']}; they are {named(list(other))}.")
    if not rows:
        if not example:
            raise DataError(f"{root} must have images with labels, but none of its tables' images has any.")
        raise not_there(root, example)
    for why, counts in (("listed in the table, but not there", absent), (f"not view={options.get('view')}", other)):
        for kind, count in counts.items():
            inventory.leave(why, kind, count)
    if absent:
        sentence = f"{absent.total():,} of {absent.total() + len(rows) + other.total():,} listed images are not there."
        inventory.guesses.append(Guess("parts", sentence))
    if not views and seen["LATERAL"] and len(seen) > 1:
        sentence = (
            f"{seen['LATERAL']:,} of {len(rows):,} images are lateral views, and are used beside the frontal ones."
        )
        inventory.guesses.append(Guess("views", sentence, "view=frontal"))
    cases = table(rows, label_names=[label_name(name.replace("/", " ")) for name in chosen])
    cases.attrs |= {"inventory": inventory, "left": {**(left or {}), **counted}}
    return cases


def _require_alike(record: Record, first: Record, root: Path) -> None:
    """Raise DataError unless two rows of one image have the same labels, patient and part."""
    pairs = [
        *((name, first.labels[name], value) for name, value in record.labels.items()),
        ("patient", first.patient, record.patient),
        ("part", first.split, record.split),
    ]
    for name, one, other in pairs:
        if one != other:
            raise DataError(
                f"The tables in {root} must list each image once, but {record.case_id} is there twice, with {name} "
                f"{one} and {other}. Remove one of the rows."
            )


def _chosen(text: str | None, names: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that `labels=` names, by any spelling; all of them without the option."""
    if text is None:
        return tuple(names)
    known = {plain(name): name for name in names}
    chosen = []
    for word in text.split("|"):
        if plain(word) not in known:
            raise DataError(f"labels must name labels of the data, but got {word!r}.{did_you_mean(word, names)}")
        chosen.append(known[plain(word)])
    if len(set(chosen)) < len(chosen):
        raise DataError(f"labels must name each label once, but got {text!r}.")
    return tuple(chosen)


def require_distinct(names: Sequence[str], content: Table) -> None:
    """Raise DataError if two columns of labels have one name but for case, blanks and `_`."""
    seen: dict[str, str] = {}
    for name in names:
        if (first := seen.setdefault(_spelling(name), name)) != name:
            raise DataError(f"{content.file} must have labels of different names, but got {first!r} and {name!r}.")


def _spelling(name: str) -> str:
    """Return a label's name without regard to case, blanks and `_`; `TB-` and `TB` are two."""
    return re.sub(r"[\s_]+", " ", name.casefold())


def plain(name: str) -> str:
    """Return a label's name for comparison: `Pleural_Thickening` and `pleural thickening` are one."""
    return "".join(char for char in name.casefold() if char.isalnum())


def _views(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    if text.lower() not in _VIEWS:
        raise DataError(f"view must be one of {', '.join(_VIEWS)}, but got {text!r}.")
    return _VIEWS[text.lower()]


def _view(text: str) -> str | None:
    """Return AP, PA, FRONTAL (AP or PA), LATERAL, or another view as written; None where it is unknown."""
    word = text.strip().upper()
    return _WORDS.get(word) or ("AP" if word.startswith("AP") else word if word not in ("", "UNK", "EXCLUDE") else None)


def is_blank(text: str) -> bool:
    """True of an empty cell, and of what pandas, R and Excel write for one."""
    return text.lower() in MISSING


def number(text: str) -> float:
    """Return the number that a cell holds, with a decimal point or comma, or as True or False.

    Raises:
        ValueError: it holds none.
    """
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    return float(text.replace(",", ".") if text.count(",") == 1 else text)


def uncertain(text: str, where: str, column: str, blank: float | None) -> float | None:
    """Return the value of a cell of the CheXpert labeller: 1, 0, -1 (uncertain) or blank.

    Raises:
        DataError: it is another value.
    """
    if is_blank(text):
        return blank
    try:
        return {1.0: 1.0, 0.0: 0.0, -1.0: UNCERTAIN}[number(text)]
    except (KeyError, ValueError):
        raise DataError(f"{where}: {column} must be 1, 0, -1 or blank, but got {text!r}.") from None


def blank_value(options: Mapping[str, str], inventory: Inventory) -> float | None:
    """Return what a blank cell means by the option `blank`, and note it.

    Raises:
        DataError: the option has another value.
    """
    text = options.get("blank", "negative")
    if text not in ("negative", "unknown"):
        raise DataError(f"blank must be negative or unknown, but got {text!r}.")
    if "blank" not in options:
        sentence = "Labels left blank (not mentioned in the report) are taken as absent, as the authors of CheXpert do."
        inventory.guesses.append(Guess("labels", sentence, "blank=unknown"))
    return 0.0 if text == "negative" else None


def separated(content: Table, column: str, separator: str) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
    """Return the labels that a column lists, sorted, and 0 or 1 of each for every row.

    Spellings that differ in case, blanks and `_` are one label. Brackets and quotation marks do not count. Words for
    the absence of all, such as `No Finding`, are no label. A row without words has none.

    Raises:
        DataError: the column holds no label, or numbers.
    """
    rows = [{word.strip(_QUOTES) for word in text.strip(_BRACKETS).split(separator)} for text in content[column]]
    spelt: dict[str, str] = {}
    for words in rows:
        for word in sorted(words):
            if plain(word) not in _ABSENT:
                spelt.setdefault(_spelling(word), word)
    names = tuple(sorted(spelt.values()))
    if not names:
        raise DataError(f"{content.file} must list labels in the column '{column}', but it holds none.")
    if all(re.fullmatch(r"[\d.,+-]+", name) for name in names):
        raise DataError(
            f"{content.file} must list names of labels in the column '{column}', but it holds numbers, such as "
            f"{names[0]}. For columns of 0 and 1 write labels=A|B without separator."
        )
    held = [{_spelling(word) for word in words} for words in rows]
    return names, [tuple(float(_spelling(name) in words) for name in names) for words in held]


def used(content: Table, meanings: Mapping[str, str], labels: Iterable[str] = ()) -> dict[str, str]:
    """Return column -> use, of the columns that a table has, for the inventory."""
    return {
        name: what for name, what in {**meanings, **dict.fromkeys(labels, "label")}.items() if name in content.columns
    }


def note_columns(inventory: Inventory, content: Table, meanings: Mapping[str, str], labels: Iterable[str] = ()) -> None:
    """Enter a table's used and unused columns in the inventory."""
    columns = used(content, meanings, labels)
    inventory.columns |= columns
    inventory.unused += [name for name in content.columns if name not in columns and name not in inventory.unused]
