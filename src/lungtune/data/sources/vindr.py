"""VinDr-CXR (Nguyen et al. 2022): 15,000 training images of three readers each, 3,000 test images by consensus.

`annotations/image_labels_train.csv` (`image_id`, `rad_id`, a column a label), `annotations/image_labels_test.csv`
(`image_id`, a column a label), DICOM images `train/<image_id>.dicom` and `test/<image_id>.dicom`. The data name no
patients; sex and age are in the headers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.core.fields import UNCERTAIN
from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _labelled, _published
from lungtune.data.sources._labelled import Record
from lungtune.data.sources._located import Locator
from lungtune.data.sources._tables import Table
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "VinDr-CXR (DICOM): findings and diagnoses of three readers a training case, consensus in the test part"
OPTIONS = {
    **_labelled.OPTIONS,
    "readers": "agree: a label that its readers do not agree on is uncertain (default); majority: as most of them say",
}
_IDS = ("image_id", "rad_id")
_TABLES = {"train": "image_labels_train.csv", "test": "image_labels_test.csv"}


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images that the tables list.

    Raises:
        DataError: no such folder or table, a label is neither 0 nor 1, the tables have different labels, or no image is
            there.
    """
    tables = _published.folder_with(path, "vindr", _TABLES["train"], inner="annotations")
    root = tables.parent if tables.name == "annotations" else tables
    majority = options.get("readers", "agree")
    if majority not in ("agree", "majority"):
        raise DataError(f"readers must be agree or majority, but got {majority!r}.")
    inventory = Inventory()
    if "readers" not in options:
        sentence = "Labels that the readers of an image do not agree on are uncertain."
        inventory.guesses.append(Guess("labels", sentence, "readers=majority"))
    read = {part: _table(tables, part) for part, pattern in _TABLES.items() if _published.tables(tables, pattern)}
    names = _labels(read["train"])
    for content in read.values():
        if set(_labels(content)) != set(names):
            odd = sorted(set(_labels(content)) ^ set(names))
            raise DataError(f"{content.file} must have the labels of the training table, but differs in {odd}.")
        _labelled.note_columns(inventory, content, dict(zip(_IDS, ("path", "reader"), strict=True)), names)
    records = (record for part, content in read.items() for record in _records(root, part, content, names, majority))
    return _labelled.cases_of("vindr", records, names, options, inventory, root)


def _table(folder: Path, part: str) -> Table:
    return _published.one_table(folder, _TABLES[part], ("image_id",), _IDS)


def _labels(content: Table) -> tuple[str, ...]:
    return tuple(name for name in content.columns if name not in _IDS)


def _records(root: Path, part: str, content: Table, names: tuple[str, ...], readers: str) -> Iterator[Record]:
    """Yield every image, with the verdict of its readers.

    Raises:
        DataError: a label is neither 0 nor 1.
    """
    locator = Locator(root)
    rows: dict[str, list[int]] = defaultdict(list)
    for k, image in enumerate(content["image_id"]):
        rows[image].append(k)
    for image, places in rows.items():
        labels = {name: _verdict([_vote(content, k, name) for k in places], readers) for name in names}
        candidates = (f"{part}/{image}{suffix}" for suffix in (".dicom", ".dcm", ".png", ".jpg", ""))
        yield Record(f"{part}/{image}", next(filter(None, map(locator.find, candidates)), None), labels, split=part)


def _vote(content: Table, row: int, name: str) -> int:
    text = content[name][row]
    if text not in ("0", "1", "0.0", "1.0"):
        raise DataError(f"{content.where(row)}: {name} must be 0 or 1, but got {text!r}.")
    return int(float(text))


def _verdict(votes: list[int], readers: str) -> float:
    """Return 0, 1 or `UNCERTAIN`; a tied vote is uncertain under either rule."""
    share = sum(votes) / len(votes)
    if readers == "majority" and share != 0.5:
        return float(share > 0.5)
    return share if share in (0.0, 1.0) else UNCERTAIN
