"""Lung masks in a separate folder: the option `masks=` of folder-like sources."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

from lungtune.core import paths
from lungtune.data.inventory import Inventory
from lungtune.data.sources import _names
from lungtune.data.sources._files import images, require_folder, unwrap
from lungtune.errors import DataError

OPTION = {"masks": "folder of lung masks: each under its image's relative path, with any suffix or as NAME_mask"}
PATHS = ("masks",)


def add_masks(
    rows: Sequence[MutableMapping[str, Any]], root: Path, options: dict[str, str], inventory: Inventory | None = None
) -> None:
    """Set `mask_path` in the rows of a case table from the option `masks`, if set.

    Args:
        rows: one mapping per image; `path` is read, `mask_path` written where there is a mask.
        root: the folder that the images' relative paths begin at.
        options: the source's options.
        inventory: gets how masks were paired.

    Raises:
        DataError: no such folder, it matches no image, or two masks match one image.
    """
    if "masks" not in options:
        return
    folder = require_folder(paths.expanded(options["masks"]), "masks", option=True)
    wanted = [(row, Path(row["path"]).relative_to(root)) for row in rows]
    for base in dict.fromkeys((folder, folder / root.name, unwrap(folder))):
        held = _by_stem(base) if base.is_dir() else {}
        matched = 0
        for row, name in wanted:
            masks = [file for file in held.get(name.with_suffix("").as_posix().lower(), []) if str(file) != row["path"]]
            mask = _one(masks, name)
            if mask is not None:
                row["mask_path"] = str(mask)
                matched += 1
        if matched:
            if inventory is not None:
                inventory.masks = f"masks of {matched:,} of {len(rows):,} images, by relative path in {base}"
            return
    example = wanted[0][1].with_suffix(".png") if wanted else "IMAGE.png"
    raise DataError(
        f"masks must name a folder with masks under the images' relative paths, but {folder} matches none of "
        f"{len(rows)} images: there is no {folder / example}, for one."
    )


def _by_stem(base: Path) -> dict[str, list[Path]]:
    """Return relative path without suffix, lower case -> files; `x_mask` counts as `x`."""
    held: dict[str, list[Path]] = {}
    for file in images(base):
        name = file.relative_to(base)
        for stem in filter(None, (name.stem, _names.mask_of(name.stem))):
            held.setdefault(name.with_name(stem).as_posix().lower(), []).append(file)
    return held


def _one(masks: list[Path], name: Path) -> Path | None:
    """Return the mask of an image among those of its relative path: of its own name, as .png or with its suffix.

    Raises:
        DataError: there are several others.
    """
    for suffix in (".png", name.suffix.lower()):
        for mask in masks:
            if mask.suffix.lower() == suffix and mask.stem.lower() == name.stem.lower():
                return mask
    if len(masks) > 1:
        raise DataError(
            f"An image must have one mask, but {name.as_posix()} has {masks[0]} and {masks[1]}. Remove one, or leave "
            "it out with ignore=GLOB."
        )
    return masks[0] if masks else None
