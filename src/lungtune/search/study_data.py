"""A search's calls to ``lungtune.data``: the only place where search inspects, loads and reopens data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lungtune.core.trial import History

if TYPE_CHECKING:
    from lungtune.data.dataset import Dataset, Inspection
    from lungtune.data.synthetic_bank import Bank


def index(source: str) -> None:
    """Raise what keeps the images of ``source`` from being listed, if its path does not exist.

    Raises:
        DataError: the source is unknown, or its path is missing.
    """
    from lungtune.data import sources

    _, path, _ = sources.parse_source(source)
    if path is not None and not path.exists():
        sources.index_source(source)


def inspect(source: str, seed: int) -> Inspection:
    """Scan, audit and split a data source.

    Raises:
        DataError: the source cannot be read.
    """
    from lungtune.data import dataset

    return dataset.inspect(source, seed=seed)


def load(split: Inspection | Path, size: int, *, masks: bool, bank: Bank | None) -> Dataset:
    """Load a split's images.

    Args:
        split: an inspection, or the file of a stored split manifest.
        size: pixels of a side.
        masks: load lung masks as well.
        bank: of synthetic images.

    Raises:
        DataError: images are missing or have changed.
    """
    from lungtune.data import dataset

    return dataset.load(split, size, masks=masks, bank=bank)


def reopen_bank(history: History) -> Bank | None:
    """Return the synthetic images that a study began with; None where it has none.

    Raises:
        DataError: they are not there, or have changed.
    """
    from lungtune.data.synthetic_bank import Bank

    about = history.study.get("data", {}).get("bank")
    return Bank.again(about) if about else None
