"""Tuberculosis X-rays of the U.S. National Library of Medicine: the Shenzhen and the Montgomery set, one or both.

`ChinaSet_AllFiles/{CXR_png,ClinicalReadings}/CHNCXR_0001_0.{png,txt}`, and `MontgomerySet/` likewise with
`MCUCXR_0001_0.png` and `ManualMask/{leftMask,rightMask}/MCUCXR_0001_0.png`. The last digit of a name is the class: 0
normal, 1 tuberculosis. Each image is of another patient. Masks of a lung each are united. Masks of Shenzhen, which are
published apart as `CHNCXR_0001_0_mask.png`, may lie in any folder of masks below the same folder. Readings give sex and
age.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.inventory import Inventory
from lungtune.data.sources import _layout, _masks, _tables
from lungtune.data.sources._files import elsewhere, require_folder, walk
from lungtune.data.sources._films import films
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "tuberculosis X-rays of the NLM, Shenzhen and Montgomery, with lung masks: normal, tuberculosis"
OPTIONS = dict(_masks.OPTION)
PATHS = _masks.PATHS
CLASSES = ("normal", "tuberculosis")
_NAME = re.compile(r"(CHN|MCU)CXR_\d+_([01])", re.IGNORECASE)
_SITES = {"CHN": "Shenzhen", "MCU": "Montgomery"}
_SEX = re.compile(r"\b(fe)?male\b|\bSex\s*:\s*([MF])\b", re.IGNORECASE)
_AGE = re.compile(r"(\d{1,3})\s*(?:Y\b|yrs?\b|years?\b)|(\d{1,3})\s*(?:months?\b|mths?\b)", re.IGNORECASE)


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images below `path`.

    Raises:
        DataError: no image of such a name below `path`, or see `_layout.of_names` and `_masks.add_masks`.
    """
    root = require_folder(path, "nlm")
    inventory = Inventory()
    cases, left = _layout.of_names(root, lambda stem: bool(_NAME.fullmatch(stem)), inventory)
    if not cases:
        raise DataError(
            f"nlm needs images named CHNCXR_0001_0.png or MCUCXR_0001_0.png, but there are none in {root}."
            + (elsewhere(root, "nlm") or f" For one folder per class use folder:{root}.")
        )
    readings = _readings(root)
    rows: list[dict[str, Any]] = []
    for case in cases:
        match = _NAME.fullmatch(case.file.stem)
        assert match is not None
        rows.append(
            {
                "case_id": case.file.stem,
                "path": str(case.file),
                "label": CLASSES[int(match[2])],
                "patient_id": case.file.stem.upper(),
                "source": f"nlm:{_SITES[match[1].upper()]}",
                "mask_path": case.mask,
                "site": _SITES[match[1].upper()],
                **readings.get(case.file.stem.lower(), {}),
            }
        )
    return films(rows, root, options, CLASSES, inventory, left)


def _readings(root: Path) -> dict[str, dict[str, Any]]:
    """Return stem of an image, lower case -> `sex` and `age` in years, where its reading has them.

    Raises:
        DataError: a reading is no text.
    """
    known: dict[str, dict[str, Any]] = {}
    for folder, names in walk(root):
        for name in names:
            file = folder / name
            if file.suffix.lower() == ".txt" and _NAME.fullmatch(file.stem):
                known[file.stem.lower()] = parsed(_tables.text(file))
    return known


def parsed(text: str) -> dict[str, Any]:
    """Return `sex` (`female`, `male`) and `age` in years of a reading: `male 45yrs`, or `Patient's Age: 027Y`."""
    held: dict[str, Any] = {}
    sex, age = _SEX.search(text), _AGE.search(text)
    if sex:
        held["sex"] = "female" if sex[1] or (sex[2] or "").upper() == "F" else "male"
    if age:
        held["age"] = float(age[1]) if age[1] else int(age[2]) / 12
    return held
