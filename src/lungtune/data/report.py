"""Audit report for the terminal or as JSON."""

from __future__ import annotations

import json
from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungtune.data.audit import Audit
from lungtune.data.inventory import Inventory
from lungtune.data.manifest import PARTS
from lungtune.data.sources._files import named


def check(source: str, *, seed: int = 0, folds: int = 5, as_json: bool = False) -> int:
    """Inspect a data source and print the audit.

    Returns:
        Exit code: 0 when a search may start, else 2.

    Raises:
        DataError: the source cannot be indexed.
    """
    from lungtune.data.dataset import inspect

    inspection = inspect(source, seed=seed, folds=folds)
    if as_json:
        content = {**inspection.audit.to_dict(), "hash": inspection.manifest.hash, "seed": seed, "folds": folds}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        show(inspection.audit, inspection.manifest.hash, Console(highlight=False, soft_wrap=True))
    return 2 if inspection.audit.problems or inspection.audit.unconfirmed else 0


def sources() -> int:
    """Print the data sources and their options."""
    from lungtune.data.sources import COMMON_OPTIONS, module, names

    console = Console(highlight=False, soft_wrap=True)
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
    patients = f"{audit.patients:,} patients" if audit.patients else "no patient ids: each picture is its own patient"
    kept = sum(audit.parts[part]["groups"] for part in PARTS)
    if audit.patients and kept != audit.patients:
        patients = (
            f"{audit.patients:,} patient ids; {kept:,} patients in the parts "
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
            f"official parts), {near['copies']} copies, {near['look_alikes']} look-alikes ({near['across']} across)"
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
    for name in (*audit.classes, "all", "patients"):
        table.add_column(name, justify="right")
    for part, counts in audit.official.items():
        row = [f"{counts[name]:,}" for name in audit.classes]
        table.add_row(f"official {part}" if part != "none" else "as found", *row, f"{sum(counts.values()):,}", "")
    table.add_section()
    for part in PARTS:
        entry = audit.parts[part]
        row = [f"{entry['classes'][name]:,}" for name in audit.classes]
        table.add_row(part, *row, f"{entry['cases']:,}", f"{entry['groups']:,}")
    return table


def _inventory(inventory: Inventory, console: Console) -> None:
    """Print what was read, left out and taken for what, a line each."""
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
    table.add_column("unknown", justify="right")
    for name in audit.parts["train"]["labels"]:
        counts = [audit.parts[part]["labels"][name] for part in PARTS]
        row = [f"{each['positive']:,} + {each['negative']:,}" for each in counts]
        table.add_row(name, *row, f"{sum(each['unknown'] for each in counts):,}")
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
