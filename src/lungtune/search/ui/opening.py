"""Output of a search before its first trial."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.search.ui import live


def profile(space: SearchSpace, console: Console) -> None:
    """Print the space, its profile and its base; called before slow work."""
    base = ", ".join(f"{key} {value}" for key, value in space.base.items())
    why = (space.why if space.profile != "full" else "") or base or "several bases"
    line = f"space {space.name}, profile {space.profile}: {why}"
    console.print(escape(line), highlight=False, soft_wrap=True)


def show(study: Study, space: SearchSpace, history: History, console: Console) -> None:
    """Print the study's folder, its data and the plan."""
    about = history.study["data"]
    console.print(f"[bold]study {study.name}[/bold]  {escape(str(study.folder))}", highlight=False, soft_wrap=True)
    classes = ", ".join(about["classes"])
    counts = f"{about['counts']['train']:,} training and {about['counts']['validation']:,} validation cases"
    line = escape(f"data {about['source']}: {counts} of {classes}; split {about['hash'][:12]}")
    console.print(line, highlight=False, soft_wrap=True)
    for note in space.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)
    console.print(live.plan(space, history.target, about["counts"]["train"]))
