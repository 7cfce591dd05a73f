"""A search's calls to ``lungtune.data``: the only place where search inspects, loads and reopens data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.core.fields import Field
from lungtune.core.trial import History

if TYPE_CHECKING:
    import pandas as pd

    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import SyntheticBank


def index(source: str) -> pd.DataFrame | None:
    """Return the cases of a source that lies on disk; None of one whose images are made first, which takes a while.

    Raises:
        DataError: the source or an option of it is unknown or wrong, or its images can't be listed.
    """
    from lungtune.data import sources

    return None if sources.checked(source) else sources.index_source(source)


def refuse_no_bank(folder: Path) -> None:
    """Make sure that a folder is a bank of synthetic images, whatever it holds.

    Raises:
        DataError: it is none.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    SyntheticBank.open(folder)


def inspect(source: str, seed: int, cases: pd.DataFrame | None = None) -> Inspection:
    """Scan, audit and split a data source.

    Args:
        source: as the user names it.
        seed: of the split.
        cases: what :func:`index` returned.

    Raises:
        DataError: the source cannot be read.
    """
    from lungtune.data import dataset

    return dataset.inspect(source, seed=seed, cases=cases)


def unnamed(cases: pd.DataFrame, source: str, fields: Sequence[Field], who: str) -> str:
    """Return the sentence that refuses cases of which none names one of ``fields``, before any file is read."""
    from lungtune.data import dataset

    return dataset.unnamed(cases, source, fields, who)


def missing(inspection: Inspection, fields: Sequence[Field], who: str, scored: Sequence[Field]) -> str:
    """Return the sentence that refuses data which lack one of ``fields`` that ``who`` needs; empty when none is.

    Validation must have those in ``scored``.
    """
    from lungtune.data import dataset

    return dataset.missing(inspection, fields, who, scored)


def load(split: Inspection | Path, fields: Sequence[Field], size: int, *, bank: SyntheticBank | None) -> Dataset:
    """Load fields of a split's training and validation cases.

    Args:
        split: an inspection, or the file of a stored split manifest.
        fields: which.
        size: pixels of a side.
        bank: of synthetic images.

    Raises:
        DataError: a field is lacking, or images are missing or have changed.
    """
    from lungtune.data import dataset

    return dataset.load(split, fields, size, bank=bank)


def reopen_bank(history: History) -> SyntheticBank | None:
    """Return the synthetic images that a study began with; None where it has none.

    Raises:
        DataError: they are not there, or have changed.
    """
    from lungtune.data.synthetic_bank import SyntheticBank

    about = history.study.get("data", {}).get("bank")
    return SyntheticBank.reopen(about) if about else None
