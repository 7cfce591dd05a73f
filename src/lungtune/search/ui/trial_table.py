"""The live table of trials: as many parameters as the terminal is wide, those that differ between trials first.

The parameters are those of the best report, beside its score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from lungtune.core.space import SPACE, SearchSpace
from lungtune.core.trial import History, State, Trial
from lungtune.search.ui.standing import short

_STYLES = {
    State.RUNNING: "cyan",
    State.PAUSED: "blue",
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.FAIL: "red",
}
_HEADING, _VALUE = 6, 12
"""Least width of a column for its heading's longest word, and largest width of a value, in characters."""


def chosen(history: History, rows: int) -> list[Trial]:
    """Return at most ``rows`` trials in order of number; running ones, start points, then the best have priority."""
    running = history.of(State.RUNNING)
    start = [t for t in history.trials.values() if t.origin == "start" and t.state is not State.RUNNING]
    others = [t for t in history.ranked() if t.origin != "start"]
    some = (running + start + others + history.of(State.FAIL))[:rows]
    return sorted(some, key=lambda trial: trial.number)


def ordered(names: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    """Return parameter names, those that differ between trials first."""
    differ = {name for name in names if _differs([t.params[name] for t in trials if name in t.params])}
    return sorted(names, key=lambda name: name not in differ)


def _differs(values: Sequence[object]) -> bool:
    first = repr(values[0]) if values else ""
    return any(repr(value) != first for value in values)


def state(trial: Trial) -> str:
    """Return a trial's state as text, with the reason of a failure."""
    return trial.state.value.lower() + (f" ({trial.reason})" if trial.state is State.FAIL else "")


def score(trial: Trial, space: SearchSpace) -> str:
    """Return a trial's best score as text; empty before its first report."""
    value = trial.value(space.objective)
    return "" if math.isnan(value) else f"{value:.4f}"


def table(space: SearchSpace, history: History, rows: int, width: int) -> tuple[Table, list[str]]:
    """Return the table, and the searched parameters that do not fit ``width`` characters."""
    trials, ranked = chosen(history, rows), history.ranked()
    shown = Table(
        title=f"{space.name} · {space.objective.metric}", title_justify="left", box=box.SIMPLE_HEAD, padding=0,
        show_edge=False, pad_edge=False,
    )  # fmt: skip
    first = [_first(trial, space, bool(ranked) and trial is ranked[0]) for trial in trials]
    for place, heading in enumerate(("#", "state", "passes", "best")):
        wide = max([len(heading), *(len(cells[place]) for cells in first)])
        shown.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True, width=wide)
        width -= wide + 1
    if space.members:
        shown.add_column("parameters", no_wrap=True, overflow="ellipsis", max_width=max(20, width))
        for trial, cells in zip(trials, first, strict=True):
            shown.add_row(*cells, _listed(trial, space, history))
        return shown, []
    names, hidden = ordered(list(space.axes), list(history.trials.values())), []
    columns: list[tuple[str, int, int, list[str]]] = []
    for name in names:
        values = [short(trial.best_params(space.objective)[name])[:_VALUE] for trial in trials]
        heading = name.removeprefix("lora_").replace("_", " ")
        longest = max(map(len, heading.split()))
        needed = max([min(longest, _HEADING), *map(len, values)])
        if needed >= width:
            hidden.append(name)
            continue
        columns.append((heading, min(max(needed, longest), width - 1), needed, values))
        width -= needed + 1
    for heading, wanted, needed, _ in columns:  # the remaining width goes to truncated headings
        more = min(wanted - needed, max(0, width - 1))
        width -= more
        shown.add_column(heading, justify="right", overflow="ellipsis", width=needed + more)
    for row, cells in enumerate(first):
        shown.add_row(*cells, *(values[row] for *_, values in columns))
    return shown, hidden


def _first(trial: Trial, space: SearchSpace, leads: bool) -> tuple[Text, Text, Text, Text]:
    return (
        Text(str(trial.number) + ("*" if trial.origin == "start" else "")),
        Text(state(trial), style=_STYLES[trial.state]),
        Text(f"{trial.fidelity:.2f}"),
        Text(score(trial, space), style="bold green" if leads else ""),
    )


def _listed(trial: Trial, space: SearchSpace, history: History) -> str:
    """Return the parameters of a trial's best report in one line, the space first, then those that differ within it."""
    alike = [t for t in history.trials.values() if t.params.get(SPACE) == trial.params.get(SPACE)]
    chosen = trial.best_params(space.objective)
    names = [SPACE, *ordered([name for name in space.searched(trial.params) if name != SPACE], alike)]
    return " ".join(f"{name.removeprefix('lora_')}={short(chosen[name])}" for name in names)
