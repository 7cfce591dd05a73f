"""Data access of ``lungtune.search``: its only calls to ``lungtune.data`` that inspect, load or reopen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.core.fields import Field
from lungtune.core.study import Study
from lungtune.core.trial import History

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import SyntheticBank


def index(source: str) -> pd.DataFrame | None:
    """Return the case table of a source on disk; None of one whose images are generated first.

    Raises:
        DataError: the source or an option of it is unknown or wrong, its images can't be listed, or the source guessed
            something that a search needs confirmed, such as patients.
    """
    from lungtune.data import guesses, sources

    if sources.checked(source):
        return None
    cases = sources.index_source(source)
    guesses.require_confirmed(cases, source)
    return cases


def traits(source: str, cases: pd.DataFrame | None) -> frozenset[str]:
    """Return the kinds of fields that the cases of a source have, and ``uncertain`` where a label is uncertain.

    Args:
        source: of the cases.
        cases: result of :func:`index`.
    """
    from lungtune.data import cases as table
    from lungtune.data import sources

    return sources.traits(source) if cases is None else table.traits(cases)


def classes(source: str, cases: pd.DataFrame | None) -> tuple[str, ...]:
    """Return the classes of a source in label order; none in data without. Arguments as in :func:`traits`."""
    from lungtune.data import sources
    from lungtune.data.cases import classes_of

    return sources.classes(source) if cases is None else classes_of(cases)


def check_bank(folder: Path) -> None:
    """Check that a folder is a bank of synthetic images; its images are not read.

    Raises:
        DataError: it is not.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    SyntheticBank.open(folder)


def inspect(source: str, seed: int, cases: pd.DataFrame | None = None, size: int | None = None) -> Inspection:
    """Scan, audit and split a data source.

    Args:
        source: ``NAME[:PATH][,key=value...]``.
        seed: of the split.
        cases: result of :func:`index`, if it was called.
        size: side in pixels of the grey images that :func:`load` will open.

    Raises:
        DataError: the source cannot be read.
    """
    from lungtune.data import dataset

    return dataset.inspect(source, seed=seed, cases=cases, size=size)


def unnamed(traits: Collection[str], source: str, fields: Sequence[Field], who: str) -> str:
    """Return an error sentence if no case names one of ``fields``, else an empty string; reads no file."""
    from lungtune.data import dataset

    return dataset.unnamed(traits, source, fields, who)


def missing(inspection: Inspection, fields: Sequence[Field], who: str, scored: Sequence[Field]) -> str:
    """Return an error sentence if the data lack one of ``fields`` that ``who`` needs, else an empty string.

    Validation must have the fields in ``scored``.
    """
    from lungtune.data import dataset

    return dataset.missing(inspection, fields, who, scored)


def load(split: Inspection, fields: Sequence[Field], size: int, *, bank: SyntheticBank | None) -> Dataset:
    """Load fields of a split's training and validation cases.

    Args:
        split: an inspection.
        fields: to load.
        size: side of the images in pixels.
        bank: synthetic images to load; None for none.

    Raises:
        DataError: a field is missing, or images are missing or have changed.
    """
    from lungtune.data import dataset

    return dataset.load(split, fields, size, bank=bank)


def reload(
    study: Study, history: History, fields: Sequence[Field], size: int, *, bank: SyntheticBank | None
) -> Dataset:
    """Load fields of a study's training and validation cases, from the split that it stored.

    Args:
        study: begun.
        history: of the study.
        fields, size, bank: as in :func:`load`.

    Raises:
        DataError: the split is missing, damaged or not the one that the study began with; or see :func:`load`.
    """
    from lungtune.data import dataset

    return dataset.load(study.split_path, fields, size, bank=bank, expected=split_hash(history))


def split_hash(history: History) -> str | None:
    """Return the hash of the split that a study began with; None in journals that do not say."""
    found = history.study.get("data", {}).get("hash")
    return str(found) if found else None


def check_split(study: Study, history: History) -> None:
    """Check that a study's stored split is the one it began with.

    Raises:
        DataError: it is missing, damaged, or another one.
    """
    from lungtune.data.manifest import Manifest

    Manifest.load(study.split_path, split_hash(history))


def reopen_bank(history: History) -> SyntheticBank | None:
    """Return the synthetic images that a study was created with; None if it has none.

    Raises:
        DataError: they are missing or have changed.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    about = history.study.get("data", {}).get("bank")
    return SyntheticBank.reopen(about) if about else None
