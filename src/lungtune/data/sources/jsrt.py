"""JSRT Digital Image Database: chest X-rays with and without a lung nodule, with the masks of SCR.

`JPCLN001.IMG` (154 with a nodule) and `JPCNN001.IMG` (93 without), in one folder or several, raw as published
(`readers.jsrt_raw`), as PNG, DICOM or any other format that is read. SCR's masks
`fold1/masks/{left lung,right lung,heart,...}/JPCLN001.gif` may lie below the same folder; both lungs are united. Each
image is of another patient.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.inventory import Inventory
from lungtune.data.sources import _layout, _masks
from lungtune.data.sources._files import elsewhere, require_folder
from lungtune.data.sources._films import films
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "JSRT chest X-rays with the lung masks of SCR: no_nodule, nodule"
OPTIONS = dict(_masks.OPTION)
PATHS = _masks.PATHS
CLASSES = ("no_nodule", "nodule")
_NAME = re.compile(r"JPC([LN])N\d{3}", re.IGNORECASE)


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images below `path`.

    Raises:
        DataError: no image of such a name below `path`, an image twice, or see `_layout.of_names`.
    """
    root = require_folder(path, "jsrt")
    inventory = Inventory()
    cases, left = _layout.of_names(root, lambda stem: bool(_NAME.fullmatch(stem)), inventory)
    if not cases:
        raise DataError(
            f"jsrt needs images named JPCLN001 and JPCNN001, but there are none in {root}.{elsewhere(root, 'jsrt')}"
        )
    rows: list[dict[str, Any]] = [
        {
            "case_id": case.file.stem.upper(),
            "path": str(case.file),
            "label": CLASSES[case.file.stem[3].upper() == "L"],
            "patient_id": case.file.stem.upper(),
            "source": "jsrt",
            "mask_path": case.mask,
        }
        for case in cases
    ]
    return films(rows, root, options, CLASSES, inventory, left)
