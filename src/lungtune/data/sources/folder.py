"""Class folders, with or without part folders above or below them.

`DIR/<class>/...`, `DIR/{train,val,test}/<class>/...` or `DIR/<class>/{train,val,test}/...`. Folders of masks beside or
below them, and `x_mask.png` beside `x.png`, are masks, never training images; `DIR/{images,masks}/` and
`DIR/{train,val}/{images,masks}/` are data for segmentation, without classes. How names are read: `_layout`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtune.data.inventory import Guess, Inventory
from lungtune.data.sources import _layout, _masks, _names, _patients
from lungtune.data.sources._files import folders, require_folder, unwrap

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "class folders, optionally above or below train/val/test folders, with or without folders of masks"
OPTIONS = {**_patients.OPTION, **_masks.OPTION}
PATHS = _masks.PATHS


def index(path: Path | None, options: dict[str, str]) -> pd.DataFrame:
    """Index the images below `path`.

    Raises:
        DataError: see `_layout.understand`, `_masks.add_masks` and `_patients.add_patients`.
    """
    from lungtune.data.cases import label_name, table

    root = unwrap(require_folder(path, "folder"))
    _patients.expression(options)
    inventory = Inventory()
    layout = _layout.understand(root, inventory)
    rows: list[dict[str, Any]] = [
        {
            "case_id": case.file.relative_to(root).as_posix(),
            "path": str(case.file),
            "label": label_name(case.folder) if case.folder is not None else None,
            "source": "folder",
            "split": case.split,
            "mask_path": case.mask,
        }
        for case in layout.cases
    ]
    _masks.add_masks(rows, root, options, inventory)
    attrs = _patients.add_patients(rows, options, inventory)
    if (siblings := _other_parts(root)) and not any(row["split"] for row in rows):
        shown = " and ".join(folder.name for folder in siblings)
        sentence = f"{root.name} seems to be a part of a data set, beside {shown}. For all write folder:{root.parent}."
        inventory.guesses.append(Guess("parts", sentence))
    cases = table(rows, classes=[label_name(name) for name in layout.folders])
    cases.attrs |= {"inventory": inventory, "left": layout.left, **attrs}
    return cases


def _other_parts(root: Path) -> list[Path]:
    """Return the folders of other parts beside a folder that has the name of a part."""
    own = _names.part(root.name)
    parts = {folder: _names.part(folder.name) for folder in folders(root.parent)} if own else {}
    return [folder for folder, part in parts.items() if part not in (None, own)]
