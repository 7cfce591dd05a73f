"""What a search prints before its first trial."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.search.ui import live


def profile(space: SearchSpace, console: Console) -> None:
    """Print what is searched from which base, before anything is waited for."""
    base = ", ".join(f"{key} {value}" for key, value in space.base.items())
    why = (space.why if space.profile != "full" else "") or base or "several bases"
    told = f"space {space.name}, profile {space.profile}: {why}"
    console.print(escape(told), highlight=False, soft_wrap=True)


def show(study: Study, space: SearchSpace, history: History, console: Console) -> None:
    """Print the study's folder, its data and the plan."""
    about = history.study["data"]
    console.print(f"[bold]study {study.name}[/bold]  {escape(str(study.folder))}", highlight=False, soft_wrap=True)
    classes = ", ".join(about["classes"])
    counts = f"{about['counts']['train']:,} training and {about['counts']['validation']:,} validation cases"
    told = escape(f"data {about['source']}: {counts} of {classes}; split {about['hash'][:12]}")
    console.print(told, highlight=False, soft_wrap=True)
    for note in space.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    console.print(live.plan(space, history.target, about["counts"]["train"]))
