"""Markdown description at the head of an MLflow run's page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lungtune.core.trial import History, State, Trial
from lungtune.report import formatting
from lungtune.tracking import limits


def study(history: History, summary: Mapping[str, Any]) -> str:
    """Return the parent run's report: best trial, baselines, states, work."""
    objective, space = history.objective, history.study["space"]
    metric = objective.metric
    counts = {state.value: len(history.of(state)) for state in State}
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    done = f"{len(history.trials)} of {history.target} trials ({states or 'none yet'})"
    ranked = history.ranked()
    best = f"**best {metric} {_number(ranked[0].value(objective))}** (trial {ranked[0].number:03d}), " if ranked else ""
    lines = [
        f"{best}{space['family']} on {history.study['data'].get('source')}",
        "",
        f"{done}, {history.work:.3g} passes over the training fold so far.",
    ]
    rows = []
    for baseline, values in history.baselines.items():
        if metric in values:
            rows.append((formatting.baseline(baseline), values[metric], ""))
    start = next((t.as_begun() for t in history.trials.values() if t.origin == "start"), None)
    if start is not None and not math.isnan(start.value(objective)) and start.state is not State.FAIL:
        name = f"trial {start.number:03d}, the start configuration"
        rows.append((name, start.value(objective), _where(start, history)))
    rows += [(f"**trial {t.number:03d}**", t.value(objective), _where(t, history)) for t in ranked[:5]]
    if rows:
        lines += ["", f"| | {metric} | |", "|---|---|---|"]
        lines += [f"| {name} | {_number(value)} | {where} |" for name, value, where in rows]
    if ranked:
        params = ranked[0].best_params(objective)
        lines += ["", f"Parameters of trial {ranked[0].number:03d}:", "", _table(params)]
    if summary:
        text = json.dumps(summary, indent=1, ensure_ascii=False, default=str)
        lines += ["", "Summary:", "", "```json", limits.clip(text, 2500), "```"]
    return limits.clip("\n".join(lines), limits.TAG)


def trial(history: History, trial: Trial) -> str:
    """Return a child run's note: its ending and its best report."""
    best = trial.best(history.objective)
    ending = f"**{trial.state.value}**" + (f" ({trial.reason})" if trial.reason else "")
    if trial.duplicate_of is not None:
        ending += f", same configuration as trial {trial.duplicate_of:03d}: answered without training"
    if best is None:
        lines = [f"{ending}, no score."]
    else:
        value = best.metrics[history.objective.metric]
        lines = [f"{ending}, best {history.objective.metric} {_number(value)} after {best.fidelity:.3g} passes."]
    if trial.state is State.FAIL and trial.message:
        lines += ["", "```", limits.clip(trial.message.strip().splitlines()[-1], 500), "```"]
    return limits.clip("\n".join(lines), limits.TAG)


def axis(value: Any) -> str:
    """Return a searched range as one short text: ``0.0005 .. 0.02 log`` or ``2 | 4 | 8``."""
    try:
        held = json.loads(value) if isinstance(value, str) else value
        spec = held["attributes"]
    except (ValueError, KeyError, TypeError):
        return limits.plain(value)
    if "choices" in spec:
        return " | ".join(map(limits.plain, spec["choices"]))
    step = f" step {spec['step']:g}" if spec.get("step") not in (None, 1) else ""
    return f"{spec.get('low'):g} .. {spec.get('high'):g}{' log' if spec.get('log') else ''}{step}"


def _where(trial: Trial, history: History) -> str:
    best = trial.best(history.objective)
    return f"{best.fidelity:.3g} passes, {trial.state.value}" if best else ""


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else str(value)


def _table(params: Mapping[str, Any]) -> str:
    names, values = zip(*params.items(), strict=True) if params else (("",), ("",))
    cells = [limits.plain(value).replace("|", "/") for value in values]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n| {' | '.join(cells)} |"
