"""Masks of cases: reading, judgement against their images and by their values, entries in the manifest."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import combinations
from typing import TYPE_CHECKING, Any

from lungtune.core import paths as places
from lungtune.core.cache import HINT
from lungtune.core.io import log_stderr, track
from lungtune.data import mask_files, readers
from lungtune.data.readers import images
from lungtune.data.readers.base import UnreadableImageError, read
from lungtune.data.readers.mask_values import WHITE, levels
from lungtune.data.scan import scan
from lungtune.data.sources._files import named

if TYPE_CHECKING:
    import pandas as pd

_EXTENT = ("kind", "width", "height", "depth")


def scan_masks(cases: pd.DataFrame, *, fresh: bool = False) -> pd.DataFrame:
    """Read every mask a case table names; with `fresh`, whatever is cached.

    Returns:
        One row per case, in order: `scan`'s row of its mask, with the digest of `mask_files` as `sha1`, and `levels`,
        a tuple of the values of its areas (see `mask_values.levels`); all None where a case has none. The index is the
        mask's name in the case table.
    """
    import pandas as pd

    held = list(dict.fromkeys(mask for mask in cases["mask_path"] if mask is not None))
    files = [file for mask in held for file in mask_files.files(mask)]
    facts = scan(files, what="masks", fresh=fresh)
    facts = facts[~facts.index.duplicated()]
    areas = _areas(dict(zip(facts.index, facts["sha1"], strict=True)))
    chosen = cases.attrs.get("mask_values", ())
    rows = {mask: _united(facts.loc[mask_files.files(mask)], areas, chosen) for mask in held}
    columns = [*facts.columns, "levels"]
    empty = dict.fromkeys(columns)
    table = pd.DataFrame(
        [rows.get(mask, empty) for mask in cases["mask_path"]],
        index=pd.Index(list(cases["mask_path"]), dtype=object),
        columns=columns,
        dtype=object,
    )
    return table.where(table.notna(), None)


def _united(facts: pd.DataFrame, areas: dict[str, tuple[int, ...] | str], chosen: Sequence[int]) -> dict[str, Any]:
    """Return the row of a mask from those of its files."""
    row: dict[str, Any] = facts.iloc[0].to_dict()
    row["levels"] = None
    errors = [f"{file} {error}" for file, error in zip(facts.index, facts["error"], strict=True) if error is not None]
    if not errors:
        values = [areas[digest] for digest in facts["sha1"]]
        errors += [f"{file} {why}" for file, why in zip(facts.index, values, strict=True) if isinstance(why, str)]
    if not errors and len({tuple(extent) for extent in _rows(facts, _EXTENT)}) > 1:
        errors.append(f"{mask_files.shown(mask_files.joined(list(facts.index)))} have different sizes")
    if errors:
        return {**dict.fromkeys(row), "error": errors[0]}
    row["levels"] = tuple(sorted({level for each in values for level in each}))
    row["sha1"] = mask_files.digest(list(facts["sha1"]), chosen)
    return row


def _areas(files: dict[str, str | None]) -> dict[str, tuple[int, ...] | str]:
    """Return SHA-1 -> values of a mask's areas, or why it is no mask.

    Kept in `masks-1.sqlite` in the cache folder, by content.

    Args:
        files: path -> SHA-1; None of a file that can't be read.
    """
    paths = {digest: path for path, digest in files.items() if digest is not None}
    known: dict[str, tuple[int, ...] | str] = {}
    try:
        with closing(_connect()) as connection:
            known = {
                digest: held if isinstance(held := json.loads(text), str) else tuple(held)
                for digest, text in connection.execute("SELECT sha1, areas FROM masks")
                if digest in paths
            }
    except (OSError, sqlite3.DatabaseError, ValueError) as error:
        log_stderr(f"The cache of mask facts {_database()} cannot be used: {error}. {HINT}")
    missing = [digest for digest in paths if digest not in known]

    def judge(digest: str) -> tuple[int, ...] | str:
        try:
            data = read(paths[digest])
            reader = readers.find(data, paths[digest])
            if not hasattr(reader, "open_mask"):
                return images.NO_MASK
            return levels(reader.open_mask(data))
        except UnreadableImageError as error:
            return str(error)

    with images.decoders() as pool:
        judged = zip(missing, pool.map(judge, missing), strict=True)
        new = dict(track(judged, len(missing), "Judging masks"))
    known |= new
    try:
        with closing(_connect()) as connection, connection:
            rows = [(digest, json.dumps(held)) for digest, held in new.items()]
            connection.executemany("INSERT OR REPLACE INTO masks VALUES (?, ?)", rows)
    except (OSError, sqlite3.DatabaseError) as error:
        log_stderr(f"The cache of mask facts {_database()} cannot be written: {error}. {HINT}")
    return known


def _database() -> Any:
    return places.cache() / "masks-1.sqlite"


def _connect() -> sqlite3.Connection:
    _database().parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(_database(), timeout=60)
    connection.execute("CREATE TABLE IF NOT EXISTS masks (sha1 TEXT PRIMARY KEY, areas TEXT)")
    return connection


def mask_columns(masks: pd.DataFrame | None, cases: int) -> tuple[list[str | None], list[str | None]]:
    """Return name and digest of every case's mask, None where it has none or it cannot be read."""
    if masks is None:
        return [None] * cases, [None] * cases
    sums = list(masks["sha1"])
    return [str(path) if digest else None for path, digest in zip(masks.index, sums, strict=True)], sums


def mask_problems(cases: pd.DataFrame, facts: pd.DataFrame, masks: pd.DataFrame) -> list[str]:
    """Return sentences on masks that cannot be read, of another shape than their image, or of unknown values."""
    named_masks = int(cases["mask_path"].notna().sum())
    unread = [] if cases.attrs.get("unreadable") == "drop" else list(dict.fromkeys(masks["error"].dropna()))
    odd = []
    for case, image, mask in zip(cases["case_id"], _rows(facts, _EXTENT), _rows(masks, _EXTENT), strict=True):
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
            "Mend them, leave their cases without a mask, or add ',unreadable=drop' to the data source."
        )
    if odd:
        problems.append(
            f"A mask must have its image's aspect ratio, but {len(odd)} of {named_masks} have another: {named(odd)}."
        )
    return [*problems, *_unknown_values(cases, masks)]


def _unknown_values(cases: pd.DataFrame, masks: pd.DataFrame) -> list[str]:
    """Return a sentence if masks are label maps and the user did not choose values, or chose one that none holds."""
    counts = Counter(level for held in masks["levels"] for level in held or ())
    chosen = cases.attrs.get("mask_values", ())
    seen = ", ".join(f"{level} ({number} masks)" for level, number in sorted(counts.items()))
    absent = [str(value) for value in chosen if not any(abs(value - level) <= (level > WHITE) for level in counts)]
    if absent and counts:
        return [f"mask_values must name values of the masks, but none holds {named(absent)}; they hold {seen}."]
    several = [
        (case, held) for case, held in zip(cases["case_id"], masks["levels"], strict=True) if len(held or ()) > 1
    ]
    small = {level for level in counts if level <= WHITE}
    mixed = len(small) > 1 or (small - {1} and len(counts) > len(small))
    if chosen or not (several or mixed):
        return []
    example = f", such as that of {several[0][0]} {' and '.join(map(str, several[0][1]))}" if several else ""
    return [
        f"Masks with several values must say which are lung, but {len(several)} of {int(masks['sha1'].notna().sum())} "
        f"hold several{example}; in all: {seen}. Add ',mask_values={'|'.join(map(str, sorted(counts)))}' to the data "
        "source if all are lung, or only those that are."
    ]


def mask_facts(cases: pd.DataFrame, masks: pd.DataFrame) -> tuple[int, list[str]]:
    """Return how many cases have a readable mask, and a warning if some lack one while others do not."""
    with_mask = int(masks["sha1"].notna().sum())
    warnings = []
    dropped = int(masks["error"].notna().sum())
    if dropped and cases.attrs.get("unreadable") == "drop":
        warnings.append(f"{dropped} masks can't be read and are left out: {named(list(masks['error'].dropna()), 3)}.")
    lacking = list(cases.loc[cases["mask_path"].isna().to_numpy(), "case_id"])
    if with_mask and lacking:
        verb = "has" if len(lacking) == 1 else "have"
        warnings.append(f"{len(lacking)} of {len(cases)} images {verb} no mask while others do: {named(lacking)}.")
    return with_mask, warnings


def mask_meaning(cases: pd.DataFrame, masks: pd.DataFrame) -> str:
    """Return the meaning given to the values of the masks, a phrase; empty without masks."""
    counts = Counter(level for held in masks["levels"] for level in held or ())
    if not counts:
        return ""
    seen = ", ".join(f"{level} ({number:,} masks)" for level, number in sorted(counts.items()))
    chosen = cases.attrs.get("mask_values", ())
    return f"values {seen}: {'|'.join(map(str, chosen)) if chosen else 'all but 0'} is lung"


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
