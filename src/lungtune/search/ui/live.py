"""Live view of a search: a table that is redrawn in a terminal, plain lines in a pipe; and the table of its plan."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History
from lungtune.search import tune_schedulers
from lungtune.search.ui import standing, trial_table
from lungtune.search.ui.plain_lines import PlainLines
from lungtune.search.ui.standing import short

__all__ = ["View", "plan", "short"]

ROWS = 18
AROUND = 9
"""Number of lines around the table's rows, without those of devices: title, heading, state."""

DEVICES = 4
"""Largest number of lines on devices."""

REDRAW = 0.5
"""Least seconds between two drawings of the table."""

SHARE = 0.05
"""Largest share of the time that drawing takes, which grows with the number of trials."""

LASTING = 3.0
"""Seconds after which a worker's occupation is printed in a pipe; before the first trial, at once."""


def plan(space: SearchSpace, trials: int, cases: int | None = None) -> Table:
    """Return the rung table: passes, samples, expected trials and cost of each level.

    Args:
        space: of the study.
        trials: number of trials.
        cases: training cases, for the column of samples; None leaves it empty.
    """
    table = Table(title=f"Plan: {trials} trials of {space.name}", title_justify="left")
    for heading in ("level", "passes", "samples", "trials expected", "passes spent"):
        table.add_column(heading, justify="right")
    total = 0.0
    for index, (level, reach, passes) in enumerate(tune_schedulers.planned(space, trials)):
        name = "full" if level == space.fidelity.max else f"rung {index + 1}"
        samples = f"{round(level * cases):,}" if cases else ""
        table.add_row(name, f"{level:.3g}", samples, f"{reach:.0f}", f"{passes:.1f}")
        total += passes
    full = trials * space.fidelity.max
    stopped = f"about {total:.0f} passes instead of {full:.0f} without early stopping"
    table.caption = stopped if total < full else f"{full:.0f} passes; every trial is trained to the full length"
    table.caption_justify = "left"
    return table


class View:
    """Context manager that displays a study's history. Call ``event`` for each journal entry, ``tick`` often."""

    def __init__(self, console: Console, history: History, space: SearchSpace) -> None:
        self.console = console
        self.history = history
        self.space = space
        self.waiting = "starting workers"
        """Text shown before the first trial: what the search waits for."""
        self._work = standing.Work(space, history)
        self._plain = PlainLines(space, history)
        self._began = time.monotonic()
        self._due = 0.0
        self._devices: dict[int, str] = {}
        self._doing: dict[int, tuple[str, float]] = {}
        self._said: set[str] = set()
        self._size = console.size
        self._live = self._new_live() if console.is_terminal else None

    def _new_live(self) -> Live:
        return Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            if self.history.trials:
                self.console.print(self.render(rows=10_000))

    def event(self, entry: Mapping[str, Any]) -> None:
        """Display one journal entry, which the history already has."""
        if entry["event"] == "host":
            about = f"{entry['device']}: trains {entry['slots']} at a time ({entry['why']})"
            self._devices[entry["index"]] = f"device {entry['index']}, {about}"
            self._doing.pop(entry["index"], None)
        if entry["event"] == "unusable":
            again = standing.minutes(entry["again"])
            self._devices[entry["index"]] = f"{entry['why']}; tried again in {again}"
            self._doing.pop(entry["index"], None)
        if self._live is not None:
            self._draw(force=entry["event"] == "host")
            return
        if entry["event"] in ("host", "unusable"):
            self._print(self._devices[entry["index"]])
        for line in self._plain.event(entry):
            self._print(line)

    def doing(self, index: int, what: str) -> None:
        """Set the occupation, other than training, of a device's worker; empty if none."""
        before, since = self._doing.pop(index, ("", 0.0))
        if what:
            same = _name(what) == _name(before)
            self._doing[index] = what, since if same else time.monotonic()

    def say(self, sentence: str) -> None:
        """Show a sentence above the table, or as a line in a pipe."""
        self._doing.clear()
        self._print(sentence)
        self._draw()

    def tick(self) -> None:
        """Redraw at most twice a second; in a pipe, print long occupations of workers."""
        if self._live is not None:
            self._draw()
            return
        for line in self._news():
            if line not in self._said:
                self._said.add(line)
                self._print(f"{line} ...")
        for line in self._plain.silence():
            self._print(line)

    def _news(self) -> Iterator[str]:
        """Yield lines on the occupations of workers for a pipe, without progress."""
        if not self.history.trials and not self._doing:
            yield self.waiting
        for index, (what, since) in sorted(self._doing.items()):
            if not self.history.trials or time.monotonic() - since > LASTING:
                yield f"device {index}: {_name(what)}"

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _draw(self, force: bool = False) -> None:
        began = time.monotonic()
        if self._live is None or (began < self._due and not force and self.console.size == self._size):
            return
        if self.console.size != self._size:  # a resized terminal rewraps the old output: clear it
            self._size = self.console.size
            self._live.stop()
            self.console.clear()
            self._live = self._new_live()
            self._live.start()
        self._live.update(self.render(), refresh=True)
        self._due = time.monotonic() + max(REDRAW, (time.monotonic() - began) / SHARE)

    def _headline(self) -> str:
        best = standing.best(self.space, self.history)
        return " · ".join(part for part in (standing.count(self.history), best) if part)

    def render(self, rows: int | None = None) -> Group:
        """Return the trials' table and the lines of state below it.

        Args:
            rows: largest number of rows; by default as many as fit the terminal.
        """
        if not self.history.trials:
            return Group(*self._occupied())
        if rows is None:
            lines_on_devices = len(self._doing) + min(DEVICES, len(self._devices))
            rows = max(3, min(ROWS, self.console.height - AROUND - lines_on_devices))
        table, hidden = trial_table.table(self.space, self.history, rows, self.console.width)
        lines = [Text(self._headline(), style="bold"), Text(self._work.text())]
        if hidden:
            names = ", ".join(name.removeprefix("lora_") for name in hidden)
            lines.append(Text(f"no room for: {names}", style="dim"))
        recent = [line for _, line in sorted(self._devices.items())[-DEVICES:]]
        devices = [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in recent]
        return Group(table, *lines, *self._occupied(), *devices)

    def _occupied(self) -> list[Text]:
        """Return lines on the occupations of workers; before the first trial at least one."""
        lines = [f"device {index}: {what}" for index, (what, _) in sorted(self._doing.items())]
        if not self.history.trials:
            lines = lines or [self.waiting]
            lines[-1] += f" · {standing.minutes(time.monotonic() - self._began)}"
        return [Text(line, style="cyan", no_wrap=True, overflow="ellipsis") for line in lines]


def _name(what: str) -> str:
    """Remove the progress of an occupation: ``Computing features: 3 of 14`` -> ``Computing features``."""
    return what.partition(": ")[0]
