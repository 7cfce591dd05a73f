"""Final output of a search: the result and the next commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from lungtune import catalog
from lungtune.core import comparison, paths
from lungtune.core.resource import TOLERANCE
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.report import formatting, leaderboard
from lungtune.search.ui import live


def headline(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the ``best`` entry of the journal's ``summary`` event; None without a score."""
    best = result["best"]
    return None if best is None else {key: best[key] for key in ("trial", "value", "interval", "gain_over_start")}


def _interval(values: Mapping[str, float] | None) -> str:
    if not values or values.get("low") is None:
        return ""
    return f" [{values['low']:.3f}, {values['high']:.3f}]"


def _baselines(groups: Mapping[str, Any], metric: str) -> list[str]:
    """Return a line on the constant-class baseline, and one on all others but the source configuration."""
    known = {name: scores[metric] for name, scores in groups.items() if name != "start" and metric in scores}
    lines = [f"constant-class baseline {known.pop('constant'):.4f}"] if "constant" in known else []
    others = "; ".join(f"{formatting.baseline(name)} {value:.4g}" for name, value in known.items())
    return [*lines, others] if others else lines


def show(study: Study, space: SearchSpace, result: Mapping[str, Any], console: Console, seconds: float) -> None:
    """Print the result and the next commands."""

    def out(*parts: str | tuple[str, str]) -> None:
        console.print(Text.assemble(*parts), soft_wrap=True)

    metric, best, start = result["objective"]["metric"], result["best"], result["baselines"]["start"]
    named, unit = {"RUNNING": "unfinished"}, result.get("unit", "patients")
    states = ", ".join(f"{n} {named.get(state, state.lower())}" for state, n in result["states"].items() if n)
    work = result["work"]
    parts = [states or "no trial has begun"]
    if work["passes"]:
        parts.append(f"{work['passes']:.1f} passes")
    if work["saved"]:
        parts.append(f"{100 * work['saved']:.0f} % saved by early stopping")
    out("; ".join([*parts, f"{seconds:.0f} s."]))
    if best is None:
        out("no trial has ended with a score yet.")
        return
    chosen = ", ".join(f"{name}={live.short(best['params'][name])}" for name in space.searched(best["params"]))
    out((f"best: trial {best['trial']}", "bold"), f" at {best['fidelity']:.3g} passes: {chosen}")
    out(f"  validation {metric} {best['value']:.4f}{_interval(best['interval'])} (95 % interval over {unit})")
    if best["corrected"]:
        expected = best["corrected"]
        out(f"  on new {unit}, corrected for choosing the best: {expected['value']:.4f}{_interval(expected)}")
    if start and start["trial"] == best["trial"] and start["value"] == best["value"]:
        out("  that is the source configuration: nothing searched so far is better")
    elif start and best["gain_over_start"]:
        gain, sign = best["gain_over_start"], 1 if result["objective"]["mode"] == "max" else -1
        left = sign * (best["corrected"]["value"] - start["value"]) if best["corrected"] else gain["value"]
        beyond = gain["low"] is not None and min(gain["low"], left) > 0
        out(
            f"  source configuration (trial {start['trial']}) {start['value']:.4f}; gain {gain['value']:+.4f}"
            f"{_interval(gain)}, {left:+.4f} after the correction: "
            f"{'beyond chance' if beyond else 'not distinguishable from chance'}"
        )
    elif start and start["reached"] < best["fidelity"] - TOLERANCE:
        within = f"{start['value']:.4f} within {start['reached']:.3g} passes, fewer than the best's: no gain is stated"
        out(f"  source configuration (trial {start['trial']}) {within}")
    for line in _baselines(result["baselines"], metric):
        out(f"  {line}")
    configuration = space.configuration(best["params"])
    family = catalog.family(configuration.family, space.objective.task)
    task = family.task(space.objective.task)
    for line in task.summary_lines(best["scores"], result["baselines"]):
        out(f"  {line}")
    if best["collapsed"]:
        out("  ", (best["collapsed"], "bold"))
    if result["leaderboard"]:
        out(("leaderboard", "bold"), f", best trial of each space; 95 % intervals over {unit}:")
        out(leaderboard.text(result["leaderboard"]))
    out("next:")
    out(f"  lungtune export --study {study.name}")
    recipe = paths.home() / "recipes" / f"{study.name}-1.yaml"
    recipe = recipe.relative_to(Path.cwd()) if recipe.is_relative_to(Path.cwd()) else recipe
    out(f"  lungtune retrain {recipe}   (with --test it opens the locked test set, once per study)")
    for command, what in task.next_commands(str(recipe)):
        out(f"  {command}   ({what})")
    for command in comparison.commands(recipe, family, space.of(best["params"]), configuration.params):
        out(f"  {command}   (does it help? with --test also on the test set)")
    out("  lungtune ui")
