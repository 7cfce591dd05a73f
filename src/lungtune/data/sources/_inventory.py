"""Inventory of what a source read and left out, the same for all sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lungtune.data import mask_files
from lungtune.data.inventory import Inventory
from lungtune.data.sources._files import every, is_image, matches, suffix
from lungtune.data.sources._names import junk
from lungtune.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_NONE = "no suffix"


def complete(cases: pd.DataFrame, path: Path | None, globs: Sequence[str]) -> pd.DataFrame:
    """Leave ignored cases out, and complete the inventory by the files that are read and left out.

    Args:
        cases: a source's case table. Its `attrs["left"]` may hold files that are not used -> why; empty of those that
            the source has counted.
        path: of the source; None if it has none. Below a folder all files are counted.
        globs: the option `ignore`.

    Raises:
        DataError: a glob matches nothing, or all cases are ignored.
        OSError: a folder cannot be listed.
    """
    inventory: Inventory = cases.attrs.setdefault("inventory", Inventory())
    matched = dict.fromkeys(globs, 0)
    kept = [not _ignored(PurePosixPath(case), matched) for case in cases["case_id"]]
    for case in cases["case_id"][[not keep for keep in kept]]:
        inventory.leave("ignored", _kind(Path(case)))
    dropped = set(cases["path"][[not keep for keep in kept]])
    attrs, cases = cases.attrs, cases[kept].reset_index(drop=True)
    cases.attrs = attrs
    left: dict[Path, str] = attrs.pop("left", {})
    inventory.read.update(_kind(Path(file)) for file in cases["path"])
    if path is not None and path.is_dir():
        _count(cases, dropped, path.absolute(), matched, left, inventory)
    unmatched = [glob for glob, count in matched.items() if not count]
    if unmatched:
        raise DataError(
            f"ignore must match files or folders of the data, but '{unmatched[0]}' matches none. A glob with / is "
            "matched on relative paths, one without on names."
        )
    if not len(cases):
        raise DataError(f"ignore must leave images, but '{'|'.join(globs)}' matches all of them.")
    return cases


def _count(
    cases: pd.DataFrame,
    dropped: set[str],
    root: Path,
    matched: dict[str, int],
    left: dict[Path, str],
    inventory: Inventory,
) -> None:
    """Count the files below a folder that are neither images nor masks of a case, nor `dropped`."""
    used = (
        dropped
        | set(cases["path"])
        | {f for mask in cases["mask_path"] if mask is not None for f in mask_files.files(mask)}
    )
    for folder, _, files in every(root):
        within = Path(folder).relative_to(root)
        above = next((name for name in within.parts if junk(name)), None)
        for name in files:
            file = Path(folder, name)
            if str(file) in used:
                continue
            if above is not None or junk(name):
                inventory.leave("of the operating system or an archive", _printable(above or name))
            elif _ignored(within / name, matched):
                inventory.leave("ignored", _kind(file))
            elif file in left:
                if left[file]:
                    inventory.leave(left[file], _kind(file))
            else:
                inventory.leave("not used by this source" if is_image(file) else "no images", _kind(file))


def _ignored(path: Path | PurePosixPath, matched: dict[str, int]) -> bool:
    """True if a glob matches; counts it."""
    hits = [glob for glob in matched if matches(path, [glob])]
    for glob in hits:
        matched[glob] += 1
    return bool(hits)


def _kind(file: Path) -> str:
    return _printable(suffix(file)) or _NONE


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
