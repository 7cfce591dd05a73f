"""Case table of sets in which each image is of another patient and is named by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.inventory import Inventory
from lungtune.data.sources import _masks
from lungtune.data.sources._files import named
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def films(
    rows: Sequence[dict[str, Any]],
    root: Path,
    options: dict[str, str],
    classes: Sequence[str],
    inventory: Inventory,
    left: Mapping[Path, str],
) -> pd.DataFrame:
    """Return the case table.

    Args:
        rows: one mapping per image.
        root: folder of the set.
        options: of the source.
        classes: of the set.
        inventory: of the source; completed.
        left: files that are not used -> why.

    Raises:
        DataError: a name is there twice, or see `_masks.add_masks`.
    """
    from lungtune.data.cases import table

    doubled = sorted(name for name, count in Counter(row["case_id"] for row in rows).items() if count > 1)
    if doubled:
        raise DataError(f"Each image must lie below {root} once, but there are copies of {named(doubled)}.")
    _masks.add_masks(rows, root, options, inventory)
    inventory.patients = f"each image is of another patient: {len(rows):,}"
    frame = table(rows, classes=classes)
    frame.attrs |= {"inventory": inventory, "left": left}
    return frame
