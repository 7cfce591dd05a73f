"""Lung masks in a separate folder: the option `masks=` of folder-like sources."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from lungtune.data.sources._files import images, require_folder, unwrap
from lungtune.errors import DataError

OPTION = {"masks": "folder of lung masks: each under its image's relative path, as .png or with the image's suffix"}
PATHS = ("masks",)


def add_masks(rows: Sequence[MutableMapping[str, Any]], root: Path, options: dict[str, str]) -> None:
    """Set `mask_path` in the rows of a case table from the option `masks`, if set.

    Args:
        rows: one mapping per image; `path` is read, `mask_path` written where there is a mask.
        root: the folder that the images' relative paths begin at.
        options: the source's options.

    Raises:
        DataError: no such folder, or it matches no image.
    """
    if "masks" not in options:
        return
    folder = require_folder(Path(options["masks"]).expanduser(), "masks", option=True)
    wanted = [(row, Path(row["path"]).relative_to(root)) for row in rows]
    for base in dict.fromkeys((folder, folder / root.name, unwrap(folder))):
        held = {file.relative_to(base).as_posix().lower(): file for file in images(base)} if base.is_dir() else {}
        matched = 0
        for row, name in wanted:
            for suffix in (".png", name.suffix):
                mask = held.get(name.with_suffix(suffix).as_posix().lower())
                if mask is not None and str(mask) != row["path"]:
                    row["mask_path"] = str(mask)
                    matched += 1
                    break
        if matched:
            return
    example = wanted[0][1].with_suffix(".png") if wanted else "IMAGE.png"
    raise DataError(
        f"masks must name a folder with masks under the images' relative paths, but {folder} matches none of "
        f"{len(rows)} images: there is no {folder / example}, for one."
    )
