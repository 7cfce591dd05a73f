"""What a user sees while a search runs: the plan first, then a live table; plain lines in a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, State, Trial
from lungtune.report import formatting

_STYLES = {
    State.RUNNING: "cyan",
    State.PAUSED: "blue",
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.FAIL: "red",
}
ROWS = 18


def plan(space: SearchSpace, trials: int, cases: int | None = None) -> Table:
    """Return the rung table: what each level costs and how many trials are expected to reach it."""
    table = Table(title=f"Plan: {trials} trials of {space.name}", title_justify="left")
    for heading in ("level", "passes", "samples", "trials expected", "passes spent"):
        table.add_column(heading, justify="right")
    total = 0.0
    for index, (level, reach, passes) in enumerate(space.fidelity.planned(trials, len(space.start))):
        name = "full" if level == space.fidelity.max else f"rung {index + 1}"
        samples = f"{round(level * cases):,}" if cases else ""
        table.add_row(name, f"{level:.3g}", samples, f"{reach:.0f}", f"{passes:.1f}")
        total += passes
    full = trials * space.fidelity.max
    table.caption = f"about {total:.0f} passes instead of {full:.0f} without early stopping"
    table.caption_justify = "left"
    return table


def short(value: Any) -> str:
    """Write a parameter's value in few characters."""
    return f"{value:.2g}" if isinstance(value, float) else str(value)


class View:
    """Shows a study's history as it grows. ``event`` is told every journal entry; ``tick`` may be called often."""

    def __init__(self, console: Console, history: History, space: SearchSpace) -> None:
        self.console = console
        self.history = history
        self.space = space
        self.began = time.monotonic()
        self.work_before = history.work
        self._drawn = 0.0
        self._devices: list[str] = []
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self.console.print(self.render(rows=10_000))

    def event(self, entry: Mapping[str, Any]) -> None:
        """Take in one journal entry (the history has it already)."""
        if entry["event"] == "host":
            told = f"{entry['device']}: {entry['slots']} train together ({entry['why']})"
            self._devices.append(f"device {entry['index']}, {told}")
        if self._live is not None:
            self._draw()
            return
        line = self._line(entry)
        if line:
            self.console.print(line, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Redraw at most twice a second."""
        if self._live is not None and time.monotonic() - self._drawn > 0.5:
            self._draw()

    def _draw(self) -> None:
        if self._live is not None:
            self._drawn = time.monotonic()
            self._live.update(self.render(), refresh=True)

    def _line(self, entry: Mapping[str, Any]) -> str:
        kind, metric = entry["event"], self.space.objective.metric
        if kind == "trial":
            trial = self.history.trials[entry["trial"]]
            chosen = " ".join(f"{k}={short(v)}" for k, v in trial.sampled.items())
            return f"trial {entry['trial']:3d}  new ({trial.origin})  {chosen}"
        if kind == "report":
            value = entry["metrics"].get(metric, math.nan)
            return f"trial {entry['trial']:3d}  {entry['fidelity']:.3g} passes  {metric} {value:.4f}"
        if kind == "host":
            return self._devices[-1]
        if kind == "lost":
            return f"trial {entry['trial']:3d}  its host died; it will be tried again ({entry['why'][:80]})"
        if kind == "end":
            trial = self.history.trials[entry["trial"]]
            why = f" ({entry['reason']})" if entry.get("reason") else ""
            return f"trial {entry['trial']:3d}  {entry['state']}{why}  {self._score(trial)}  |  {self._headline()}"
        return ""

    def _score(self, trial: Trial) -> str:
        value = trial.value(self.space.objective)
        return "" if math.isnan(value) else f"{value:.4f}"

    def _headline(self) -> str:
        objective = self.space.objective
        alive = self.history.of(State.RUNNING, State.PAUSED, State.COMPLETE, State.PRUNED)
        scored = [t for t in alive if not math.isnan(t.value(objective))]
        parts = [f"{self._ended()} of {self.history.target} trials"]
        if scored:
            pick = max if objective.mode == "max" else min
            best = pick(scored, key=lambda trial: trial.value(objective))
            parts.append(f"best {best.value(objective):.4f} (trial {best.number})")
        start = next((t for t in self.history.trials.values() if t.origin == "start"), None)
        if start is not None and not math.isnan(start.value(objective)):
            parts.append(f"source configuration {start.value(objective):.4f}")
        for group, scores in self.history.baselines.items():
            if objective.metric in scores:
                parts.append(f"{formatting.baseline(group)} {scores[objective.metric]:.4f}")
        return " · ".join(parts)

    def _ended(self) -> int:
        return len(self.history.of(State.COMPLETE, State.PRUNED, State.FAIL))

    def _work(self) -> str:
        done = self.history.work
        ended = self.history.of(State.COMPLETE, State.PRUNED, State.PAUSED)
        ended = [t for t in ended if t.duplicate_of is None and t.reason != "budget"]
        full = len(ended) * self.space.fidelity.max
        saved = 1 - sum(t.fidelity for t in ended) / full if full else 0.0
        elapsed = time.monotonic() - self.began
        planned = self._expected(ended)
        rate = (done - self.work_before) / elapsed if elapsed > 0 else 0.0
        left = max(planned - done, 0.0) / rate if rate > 0 else math.nan
        eta = "" if math.isnan(left) else f" · about {_minutes(left)} left"
        work = f"{done:.1f} of about {planned:.0f} passes · {100 * saved:.0f} % saved by early stopping"
        return f"{work} · {_minutes(elapsed)}{eta}"

    def _expected(self, ended: list[Trial]) -> float:
        """Return the passes the whole search will take: as planned at first, then as trials ended so far."""
        if len(ended) < 4 or self.history.of(State.PAUSED):  # which of them go on is not known yet
            return max(
                self.history.work,
                sum(passes for _, _, passes in self.space.fidelity.planned(self.history.target, len(self.space.start))),
            )
        mean = sum(trial.fidelity for trial in ended) / len(ended)
        running = sum(max(mean - trial.fidelity, 0.0) for trial in self.history.of(State.RUNNING))
        return self.history.work + running + mean * max(0, self.history.target - len(self.history.trials))

    def render(self, rows: int = ROWS) -> Group:
        """Return the trials' table and two lines of state."""
        axes = list(self.space.axes)
        table = Table(
            title=f"{self.space.name} · {self.space.objective.metric}", title_justify="left", box=box.SIMPLE_HEAD
        )
        for heading in ("#", "state", "passes", "best"):
            table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
        wide = self.console.width >= 34 + 10 * len(axes) and not self.space.members
        for name in axes if wide else ():
            heading = name.removeprefix("lora_").replace("_", " ")
            table.add_column(heading, justify="right", overflow="ellipsis")
        if not wide:
            table.add_column("parameters", no_wrap=True, overflow="ellipsis")
        ranked = [trial.number for trial in self.history.ranked()]
        for trial in self._shown(rows):
            top = bool(ranked) and trial.number == ranked[0]
            names = self.space.searched(trial.params)
            values = [short(trial.params[name]) for name in names]
            state = trial.state.value.lower() + (f" ({trial.reason})" if trial.state is State.FAIL else "")
            told = " ".join(f"{name.removeprefix('lora_')}={value}" for name, value in zip(names, values))
            table.add_row(
                str(trial.number) + ("*" if trial.origin == "start" else ""),
                Text(state, style=_STYLES[trial.state]),
                f"{trial.fidelity:.2f}",
                Text(self._score(trial), style="bold green" if top else ""),
                *(values if wide else [told[: max(20, self.console.width - 46)]]),
            )
        devices = [Text(told, style="dim") for told in dict.fromkeys(self._devices[-4:])]
        return Group(table, Text(self._headline(), style="bold"), Text(self._work()), *devices)

    def _shown(self, rows: int) -> list[Trial]:
        """The running trials and the best of the ended ones, by number."""
        running = self.history.of(State.RUNNING)
        start = [t for t in self.history.trials.values() if t.origin == "start" and t.state is not State.RUNNING]
        others = [t for t in self.history.ranked() if t.origin != "start"]
        failed = self.history.of(State.FAIL)
        chosen = (running + start + others + failed)[:rows]
        return sorted(chosen, key=lambda trial: trial.number)


def _minutes(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
