"""Lung masks of cases: discovery, validation against their images, and entries in the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lungtune.data.scan import scan
from lungtune.data.sources._files import named

if TYPE_CHECKING:
    import pandas as pd


def scan_masks(cases: pd.DataFrame, *, fresh: bool = False) -> pd.DataFrame:
    """Read every mask a case table names; with `fresh`, whatever is cached.

    Returns:
        One row per case, in order: `scan`'s row of its mask, all None where a case has none. The index is the mask's
        path.
    """
    paths = [path for path in cases["mask_path"] if path is not None]
    facts = scan(paths, what="masks", fresh=fresh)
    facts = facts[~facts.index.duplicated()]
    table = facts.reindex(list(cases["mask_path"])).astype(object)
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
    columns = ("kind", "width", "height", "depth")
    odd = []
    for case, image, mask in zip(cases["case_id"], _rows(facts, columns), _rows(masks, columns), strict=True):
        if not image[1] or not mask[1]:
            continue
        if image[0] != mask[0]:
            odd.append(f"{case} is {_article(image[0])}, its mask {_article(mask[0])}")
        elif not _alike(image[1:], mask[1:]):
            unit = "pixels" if image[0] == "image" else "voxels"
            odd.append(f"{case} has {_extent(image[1:])} {unit}, its mask {_extent(mask[1:])}")
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


def _rows(table: pd.DataFrame, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[column] for column in columns), strict=True)


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _extent(sides: Sequence[int]) -> str:
    return " x ".join(str(side) for side in sides if side)  # an image has depth 0


def _alike(sides: Sequence[int], mask_sides: Sequence[int]) -> bool:
    """True if both extents are roundings of one shape at two scales, in every two of their axes."""
    pairs = combinations(zip(sides, mask_sides, strict=True), 2)
    return all(
        abs(one * other_mask - other * one_mask) <= one + other for (one, one_mask), (other, other_mask) in pairs
    )
