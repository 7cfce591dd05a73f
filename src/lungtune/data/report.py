"""Audit report for the terminal or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from lungtune.core import paths as places
from lungtune.core import terminal
from lungtune.core.cache import ensure_writable
from lungtune.core.io import write_atomic
from lungtune.data.audit import Audit
from lungtune.data.inventory import Inventory
from lungtune.data.manifest import PARTS
from lungtune.data.readers.base import UnreadableImageError, read
from lungtune.data.sources._files import named

if TYPE_CHECKING:
    from rich.console import Console

    from lungtune.data.dataset import Inspection


class Drawing(NamedTuple):
    """Functions that draw contact sheets, of `lungtune.report.contact_sheet`.

    Attributes:
        sheet: `contact_sheet`.
        pairs: `pair_sheet`.
    """

    sheet: Callable[[Sequence[tuple[str, np.ndarray]], int], bytes]
    pairs: Callable[[Sequence[tuple[np.ndarray, Sequence[str]]], int], bytes]


_SHOWN, _SIDE, _COLUMNS = 24, 160, 8  # of the odd images: images a kind, their side in pixels, images side by side
_PAIRS, _PAIR_SIDE, _PAIR_COLUMNS = 24, 224, 3  # of near-copies: pairs, side of an image in pixels, pairs side by side


def check(
    source: str,
    *,
    seed: int = 0,
    folds: int = 5,
    fresh: bool = False,
    as_json: bool = False,
    drawing: Drawing | None = None,
) -> int:
    """Inspect a data source and print the audit; draw contact sheets of odd images and of near-copies.

    Args:
        source: `NAME[:PATH][,key=value...]`.
        seed: of the validation draw.
        folds: number of folds.
        fresh: read every file, whatever is cached.
        as_json: print JSON.
        drawing: draws the contact sheets; None for none.

    Returns:
        Exit code: 0 when a search may start, else 2.

    Raises:
        DataError: the source cannot be indexed.
    """
    from lungtune.data.dataset import inspect

    inspection = inspect(source, seed=seed, folds=folds, fresh=fresh)
    odd, near = (_odd_sheet(inspection, drawing), _near_sheet(inspection, drawing)) if drawing else (None, None)
    if as_json:
        content = {**inspection.audit.to_dict(), "hash": inspection.manifest.hash, "seed": seed, "folds": folds}
        content |= {"odd_sheet": str(odd) if odd else None, "near_sheet": str(near) if near else None}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        console = terminal.console(soft_wrap=True)
        show(inspection.audit, inspection.manifest.hash, console)
        if odd:
            console.print(Text(f"The odd images are drawn in {odd}"))
        if near:
            found = inspection.audit.near
            total = found["copies"] + found["look_alikes"]
            which = f"The first {_PAIRS} of {total:,} pairs" if total > _PAIRS else "All pairs"
            console.print(Text(f"{which} of copies and look-alikes are drawn in {near}"))
    return 2 if inspection.audit.problems or inspection.audit.unconfirmed else 0


def _odd_sheet(inspection: Inspection, drawing: Drawing) -> Path | None:
    """Draw the odd images, a row a kind, into the cache; return the file, or None without odd images."""
    odd = inspection.audit.odd
    if not odd:
        return None
    position = {case: row for row, case in enumerate(inspection.cases["case_id"])}
    rows = [
        (f"{kind}: {len(cases)}", np.stack([_square(inspection, position[case], _SIDE) for case in cases[:_SHOWN]]))
        for kind, cases in odd.items()
    ]
    return _written(inspection, "odd", drawing.sheet(rows, _COLUMNS))


def _near_sheet(inspection: Inspection, drawing: Drawing) -> Path | None:
    """Draw near-copies, those across official parts first, into the cache; return the file, or None without any."""
    pairs = inspection.audit.near["pairs"][:_PAIRS]
    if not pairs:
        return None
    position = {case: row for row, case in enumerate(inspection.cases["case_id"])}
    cells = []
    for pair in pairs:
        names = pair["first"], pair["second"]
        sides = np.stack([_square(inspection, position[name], _PAIR_SIDE) for name in names])
        about = f"{pair['relation']}, {pair['likeness']:.2f}{', across official parts' if pair['across'] else ''}"
        cells.append((sides, (*names, about)))
    return _written(inspection, "near", drawing.pairs(cells, _PAIR_COLUMNS))


def _written(inspection: Inspection, name: str, png: bytes) -> Path:
    file = places.cache() / "checks" / f"{name}-{inspection.manifest.hash[:12]}.png"
    ensure_writable(file.parent)
    write_atomic(file, png)
    return file


def _square(inspection: Inspection, row: int, side: int) -> np.ndarray:
    """Return a picture, uint8 `(side, side)`; of a volume its fingerprint, black if its file has become unreadable."""
    from lungtune.data.fingerprint import pictures
    from lungtune.data.readers import images

    facts = inspection.facts.iloc[row]
    if facts["kind"] == "volume":
        (small,) = pictures([facts["fingerprint"]])
        nearest = np.arange(side) * len(small) // side
        return small[nearest][:, nearest]
    try:
        data = read(inspection.cases["path"].iloc[row])
        return images.letterboxed(data, side, voi=inspection.cases.attrs["voi"])
    except UnreadableImageError:
        return np.zeros((side, side), np.uint8)


def sources() -> int:
    """Print the data sources and their options."""
    from lungtune.data.sources import COMMON_OPTIONS, module, names

    console = terminal.console(soft_wrap=True)
    for name in names():
        console.print(Text.assemble((name, "bold"), f"  {module(name).SUMMARY}"))
        for option, meaning in getattr(module(name), "OPTIONS", {}).items():
            console.print(Text(f"    {option}=  {meaning}"))
    console.print(Text("with every source", style="bold"))
    for option, meaning in COMMON_OPTIONS.items():
        console.print(Text(f"    {option}=  {meaning}"))
    return 0


def show(audit: Audit, digest: str, console: Console) -> None:
    """Print an audit as tables and sentences."""
    console.print(Text.assemble(("Data   ", "bold"), audit.source))
    console.print(_counts(audit))
    if any("labels" in entry for entry in audit.parts.values()):
        console.print(_labels(audit))
    patients = f"{audit.patients:,} patients"
    if not audit.patients:
        patients = f"patients unknown: parts and scores are over {audit.unit}, and one person may be in two parts"
    kept = sum(audit.parts[part]["groups"] for part in PARTS)
    if audit.patients and kept != audit.patients:
        patients = (
            f"{audit.patients:,} patient ids; {kept:,} {audit.unit} in the parts "
            "(left-out ones do not count, those who share a picture count as one)"
        )
    console.print(Text(f"{patients}; split {digest[:12]}"))
    if audit.masks:
        images = sum(sum(counts.values()) for counts in audit.official.values())
        console.print(Text(f"Lung masks: {audit.masks:,} of {images:,} images"))
    exact, near = audit.exact, audit.near
    console.print(
        Text(
            f"Duplicates: {exact['groups']} exact groups ({exact['images']} images, {exact['across']} groups across "
            f"official parts), {near['copies']} pairs of copies and {near['look_alikes']} of look-alikes "
            f"({near['across']} pairs across official parts)"
        )
    )
    for part, best in audit.constant.items():
        console.print(
            Text(
                f"Baseline: always answering '{best['class']}' scores accuracy {best['accuracy']:.3f}, "
                f"macro-F1 {best['macro_f1']:.3f} on {part}"
            )
        )
    if audit.shortcuts:
        console.print(_shortcuts(audit))
    elif audit.classes:
        console.print(Text("Shortcuts: all files have the same type, mode and size"))
    if audit.inventory:
        _inventory(Inventory.from_dict(audit.inventory), console)
    for note in audit.notes:
        console.print(Text.assemble(("note     ", "cyan"), note))
    for warning in audit.warnings:
        console.print(Text.assemble(("warning  ", "yellow"), warning))
    for problem in audit.problems:
        console.print(Text.assemble(("problem  ", "bold red"), problem))
    console.print(
        Text("A search would stop here.", style="bold red")
        if audit.problems
        else Text("A search would stop here until an option answers the warning on patients.", style="bold red")
        if audit.unconfirmed
        else Text("A search may start.", style="bold green")
    )


def _counts(audit: Audit) -> Table:
    table = Table(title="Images per class" if audit.classes else "Images", title_justify="left")
    table.add_column("part")
    for name in (*audit.classes, "all", audit.unit):
        table.add_column(name, justify="right")
    for part, counts in audit.official.items():
        row = [f"{counts[name]:,}" for name in audit.classes]
        table.add_row(f"official {part}" if part != "none" else "without part", *row, f"{sum(counts.values()):,}", "")
    table.add_section()
    for part in PARTS:
        entry = audit.parts[part]
        row = [f"{entry['classes'][name]:,}" for name in audit.classes]
        table.add_row(part, *row, f"{entry['cases']:,}", f"{entry['groups']:,}")
    return table


def _inventory(inventory: Inventory, console: Console) -> None:
    """Print the inventory, a line per attribute."""
    read = sum(inventory.read.values())
    lines = [("read", f"{read:,} files ({_kinds(inventory.read)})")]
    if inventory.left:
        count = sum(kinds.total() for kinds in inventory.left.values())
        reasons = "; ".join(f"{why}: {kinds.total():,} ({_kinds(kinds)})" for why, kinds in inventory.left.items())
        lines.append(("left unread", f"{count:,} files; {reasons}"))
    meanings: dict[str, list[str]] = {}
    for name, meaning in inventory.folders.items():
        meanings.setdefault(meaning, []).append(name)
    folders = "; ".join(f"{meaning}: {named(names)}" for meaning, names in meanings.items())
    columns = ", ".join(f"{column} ({use})" for column, use in inventory.columns.items())
    unused = f"; unused: {named(inventory.unused, 20)}" if inventory.unused else ""
    lines += [
        ("folders", folders),
        ("columns", columns + unused if columns or unused else ""),
        ("patients", inventory.patients or "unknown"),
        ("masks", inventory.masks),
    ]
    console.print(Text("Inventory", style="italic"))
    for title, text in lines:
        if text:
            console.print(Text(f"  {title:<12}{text}"))


def _kinds(counts: Counter[str]) -> str:
    return named([f"{kind} {count:,}" for kind, count in counts.most_common()], 6)


def _labels(audit: Audit) -> Table:
    table = Table(title="Positive and negative cases per label", title_justify="left")
    table.add_column("label")
    for part in PARTS:
        table.add_column(part, justify="right")
    for what in ("uncertain", "unknown"):
        table.add_column(what, justify="right")
    for name in audit.parts["train"]["labels"]:
        counts = [audit.parts[part]["labels"][name] for part in PARTS]
        row = [f"{each['positive']:,} + {each['negative']:,}" for each in counts]
        open_ones = [f"{sum(each.get(what, 0) for each in counts):,}" for what in ("uncertain", "unknown")]
        table.add_row(name, *row, *open_ones)
    return table


def _shortcuts(audit: Audit) -> Table:
    table = Table(title="Does the file predict the class?", title_justify="left")
    for name in ("property", "balanced accuracy", "guessing", "alarm from", "Cramer's V", ""):
        table.add_column(name, justify="left" if name in ("property", "") else "right")
    for item in audit.shortcuts:
        numbers = (item.balanced_accuracy, item.chance, item.threshold, item.cramers_v)
        style = "yellow" if item.alarm else ""
        table.add_row(item.feature, *(f"{n:.2f}" for n in numbers), "ALARM" if item.alarm else "", style=style)
    return table
