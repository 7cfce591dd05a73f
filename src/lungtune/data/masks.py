"""Lung masks of cases: found, checked against their images, and named in the manifest."""

from __future__ import annotations

import pandas as pd

from lungtune.data.scan import scan
from lungtune.data.sources._files import named


def scan_masks(cases: pd.DataFrame) -> pd.DataFrame:
    """Read every mask a case table names.

    Returns:
        One row per case, in order: what `scan` tells of its mask, all None where a case has none. The index is the
        mask's path.
    """
    paths = [path for path in cases["mask_path"] if path is not None]
    found = scan(paths, what="masks")
    found = found[~found.index.duplicated()]
    table = found.reindex(list(cases["mask_path"])).astype(object)
    return table.where(table.notna(), None)


def mask_columns(masks: pd.DataFrame | None, cases: int) -> tuple[list[str | None], list[str | None]]:
    """Return path and sha1 of every case's mask, None where it has none or it cannot be read."""
    if masks is None:
        return [None] * cases, [None] * cases
    sums = list(masks["sha1"])
    return [str(path) if digest else None for path, digest in zip(masks.index, sums, strict=True)], sums


def mask_problems(cases: pd.DataFrame, facts: pd.DataFrame, masks: pd.DataFrame) -> list[str]:
    """Return a sentence for masks that cannot be read and one for those of another shape than their image."""
    named_masks = int(cases["mask_path"].notna().sum())
    unread = [f"{p} {e}" for p, e in zip(cases["mask_path"], masks["error"], strict=True) if e is not None]
    odd = [
        f"{case} has {width} x {height} pixels, its mask {mask_width} x {mask_height}"
        for case, width, height, mask_width, mask_height in zip(
            cases["case_id"], facts["width"], facts["height"], masks["width"], masks["height"], strict=True
        )
        if width and mask_width and not _alike(width, height, mask_width, mask_height)
    ]
    problems = []
    if unread:
        problems.append(
            f"Every mask must be readable, but {len(unread)} of {named_masks} are not: {named(unread)}. "
            "Mend them, or leave their cases without a mask."
        )
    if odd:
        problems.append(
            f"A mask must have its image's aspect ratio, but {len(odd)} of {named_masks} have another: {named(odd)}."
        )
    return problems


def mask_facts(cases: pd.DataFrame, masks: pd.DataFrame) -> tuple[int, list[str]]:
    """Return how many cases have a readable mask, and a warning if some lack one while others do not."""
    with_mask = int(masks["sha1"].notna().sum())
    lacking = list(cases.loc[cases["mask_path"].isna().to_numpy(), "case_id"])
    if not with_mask or not lacking:
        return with_mask, []
    verb = "has" if len(lacking) == 1 else "have"
    return with_mask, [f"{len(lacking)} of {len(cases)} images {verb} no mask while others do: {named(lacking)}."]


def _alike(width: int, height: int, mask_width: int, mask_height: int) -> bool:
    """Tell whether both extents are roundings of one shape at two scales."""
    return abs(width * mask_height - height * mask_width) <= width + height
