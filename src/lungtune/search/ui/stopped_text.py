"""Output of a search that ended early: why, what is left, and the command that goes on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lungtune.core import journal
from lungtune.core.stopping import SPENT
from lungtune.core.study import Study
from lungtune.core.trial import History, State
from lungtune.search.ui import opening, standing


def show(name: str | None, why: str, console: Console, history: History | None = None) -> None:
    """Print why a search ended and how it goes on.

    Args:
        name: of its study; None if it had not begun.
        why: the reason.
        console: to print on.
        history: of the study, to tell what is left of it.
    """
    longer = ", with a longer --budget" if why == SPENT and history is None else ""  # no trial has trained
    why = why.rstrip(".")
    if name is None:
        text = f"stopped ({why}) before the study began; nothing of it was kept. Begin again{longer}:\n  {_command()}"
    else:
        left = f": {_left(history)}" if history is not None and _left(history) else ""
        text = f"stopped ({why}){left}. Go on{longer} with:\n  lungtune search --resume --study {name}"
    console.print(Text(text), soft_wrap=True)


def note_no_progress(history: History, study: Study, console: Console) -> None:
    """Print the smallest budget that makes sense, if no trial reported in the run that has just ended."""
    events = journal.read(study.journal_path)
    opened = max(place for place, event in enumerate(events) if event["event"] == "open")
    run = events[opened:]
    starts = [event["time"] for event in run if event["event"] == "start"]
    if any(event["event"] == "report" for event in run):
        return
    known = [event["seconds"] for event in events if event["event"] == "report" and event.get("seconds")]
    if known:
        what = f"a report takes about {standing.minutes(max(known))}"
    elif starts:
        what = f"a report takes longer than the {standing.minutes(run[-1]['time'] - starts[0])} of training"
    else:
        what = "no trial had begun to train"
    opening.note(
        f"no trial reached a report in this run ({what}), and trials go on from their last report: a run of the "
        "same length would end at the same point. Take a longer --budget.",
        console,
    )


def _left(history: History) -> str:
    counts = {
        "unfinished": len(history.of(State.RUNNING)),
        "paused": len(history.of(State.PAUSED)),
        "not begun": max(0, history.target - len(history.trials)),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{', '.join(parts)} of {history.target} trials" if parts else ""


def _command() -> str:
    first = Path(sys.argv[0])
    words = ["lungtune"] if first.name in ("lungtune", "__main__.py") else [sys.argv[0]]
    return shlex.join([*words, *sys.argv[1:]])
