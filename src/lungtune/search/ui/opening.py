"""Output of a search before its first trial."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from lungtune.core import devices as machine
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History
from lungtune.search.ui import live


def profile(space: SearchSpace, console: Console) -> None:
    """Print the space, its profile and its base; called before slow work."""
    base = ", ".join(f"{key} {value}" for key, value in space.base.items())
    why = (space.why if space.profile != "full" else "") or base or "several bases"
    line = f"space {space.name}, profile {space.profile}: {why}"
    console.print(Text(line), soft_wrap=True)


def note(text: str, console: Console) -> None:
    """Print a note."""
    console.print(Text.assemble(("note:", "yellow"), f" {text}"), soft_wrap=True)


def show(study: Study, space: SearchSpace, history: History, console: Console) -> None:
    """Print the study's folder, its data and the plan."""
    about = history.study["data"]
    console.print(Text.assemble((f"study {study.name}", "bold"), f"  {study.folder}"), soft_wrap=True)
    classes = ", ".join(about["classes"])
    counts = f"{about['counts']['train']:,} training and {about['counts']['validation']:,} validation cases"
    line = f"data {about['source']}: {counts} of {classes}; split {about['hash'][:12]}"
    console.print(Text(line), soft_wrap=True)
    for each in space.notes:
        note(each, console)
    console.print(live.plan(space, history.target, about["counts"]["train"]))


def devices(hosts: int | None, gpus: str | None, console: Console) -> None:
    """Print the devices of a search, and why they are fewer than there are.

    Args:
        hosts: ``--hosts``.
        gpus: ``--gpus``.
    """
    console.print(Text(f"devices: {_devices(hosts, gpus)}"), soft_wrap=True)


def _devices(hosts: int | None, gpus: str | None) -> str:
    address = os.environ.get("RAY_ADDRESS")
    if address:
        most = f"at most {_workers(hosts)} (--hosts {hosts})" if hosts else "a worker process each"
        return f"those of the Ray cluster {address} (RAY_ADDRESS), {most}"
    share, kind = machine.gpus(), "GPU"
    if not share.count:
        share, kind = machine.cores(), "core"
    why = f" ({f'--gpus {gpus}' if gpus else share.why})" if share.count < share.total else ""
    few = hosts is not None and hosts < share.count
    each = f"{_workers(hosts)} (--hosts {hosts})" if few else "a worker process each"
    return f"{share} {kind}{'s' * (share.total != 1)}{why}, {each}"


def _workers(count: int | None) -> str:
    return f"{count} worker process{'es' * (count != 1)}"
