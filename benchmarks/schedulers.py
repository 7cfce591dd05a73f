"""Epochs that schedulers and samplers need on tables of learning curves. No training; minutes on one core.

    python benchmarks/schedulers.py                      the two public families, where they are (--curves DIR)
    python benchmarks/schedulers.py --table FILE.csv     your own: hyperparameters, then epoch_1 .. epoch_n

A run is a table and a seed. It ends when any trial reaches the final value of the table's best 1 % of configurations
(reached), or when the method's budget of full trainings is spent (missed). Runs are kept in ``results/``; those that
are there are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import curves as tables  # beside this file
from contenders import Lungtune, ShortPass, StockRay
from lungtune.core.scheduler import SchedulerConfig
from simulator import run

HERE = Path(__file__).parent
GENEROUS = 460
"""Full trainings in which random search meets a configuration of the best 1 % with a probability of 99 %."""

SHORT = 60
"""Budget of methods whose sampler slows down with every trial. Comparisons with them count no run beyond it."""

WITHIN = (5, 20, 60)
"""Budgets in full trainings at which the share of runs that reached the target is shown."""


class Entry(NamedTuple):
    """A method: what it is called, how it is built, its budget in full trainings, how many seeds it gets at most."""

    title: str
    build: Callable[..., Any]
    fulls: int = GENEROUS
    seeds: int = 1000


def ours(**options: Any) -> Callable[..., Any]:
    """Return a builder of lungtune's own search with these options."""
    return lambda curves, choose, seed: Lungtune(curves, choose, seed, **options)


def default(curves: Any, choose: Any, seed: int) -> Lungtune:
    """Return lungtune as a space file without ``scheduler`` and ``fidelity`` has it: 3 passes, rungs from 1/3."""
    return Lungtune(curves, choose, seed, first=round(curves.epochs / 9))


METHODS = {
    "default": Entry("**lungtune's default: promote, eta 3, first rung 1/9 of the full length, TPE**", default),
    "first2": Entry("promote, eta 3, first rung 2 epochs, TPE", ours()),
    "promote-random": Entry("... random sampler", ours(kind="random")),
    "first3": Entry("... first rung 3 epochs", ours(first=3.0)),
    "stop": Entry(
        "... stopping instead of promoting", ours(scheduler=SchedulerConfig("asha", {"mode": "stop"})), SHORT, 2
    ),
    "first1": Entry("... first rung 1 epoch", ours(first=1.0), SHORT, 2),
    "full-tpe": Entry("every trial to the end, lungtune's TPE", ours(scheduler=SchedulerConfig("none")), GENEROUS, 2),
    "random": Entry("every trial to the end, random search", ours(scheduler=SchedulerConfig("none"), kind="random")),
    "short": Entry("one epoch each, top 3 of 50 to the end, again", ShortPass, GENEROUS, 2),
    "stock": Entry("stock Ray Tune: ASHA (eta 4, grace 1) + OptunaSearch (TPE)", StockRay, SHORT, 2),
}


def measure(chosen: list[str], found: dict[str, Any], seeds: int, folder: Path) -> dict[str, dict[tuple, dict]]:
    """Run what is not in ``folder`` yet; return {method: {(table, seed): run}}."""
    folder.mkdir(exist_ok=True)
    runs: dict[str, dict[tuple, dict]] = {}
    for name in chosen:
        path, entry = folder / f"{name}.jsonl", METHODS[name]
        known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        runs[name] = {(r["table"], r["seed"]): r for r in known if r["table"] in found and r["seed"] < seeds}
        with open(path, "a") as file:
            for seed in range(min(seeds, entry.seeds)):
                for table, curves in found.items():
                    if (table, seed) in runs[name]:
                        continue
                    build = lambda choose, c=curves, s=seed, e=entry: e.build(c, choose, s)  # noqa: E731
                    ended = run(curves, build, entry.fulls * curves.epochs)
                    made = {"table": table, "seed": seed, **dataclasses.asdict(ended)}
                    made["fulls"] = ended.epochs / curves.epochs
                    runs[name][table, seed] = made
                    print(json.dumps(made), file=file, flush=True)
    return runs


def speedup(runs: dict[tuple, dict], other: dict[tuple, dict], cap: float, both: bool = False) -> float:
    """Geometric mean over tables of the epochs of ``other`` by those of ``runs``, none counted beyond ``cap`` fulls.

    Seeds are averaged (geometrically) within a table on each side; ``both`` counts runs that reached the target only.
    """
    ratios = []
    for table in {key[0] for key in runs} & {key[0] for key in other}:
        sides = []
        for side in (other, runs):
            kept = [r for key, r in side.items() if key[0] == table]
            kept = [r for r in kept if not both or (r["reached"] and r["fulls"] <= cap)]
            sides.append(np.mean([math.log(min(r["fulls"], cap)) for r in kept]) if kept else math.nan)
        ratios.append(sides[0] - sides[1])
    return float(np.exp(np.nanmean(ratios))) if ratios and not np.isnan(ratios).all() else math.nan


def rows(runs: dict[str, dict[tuple, dict]], keep: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return one row of numbers a method, over the tables that ``keep`` keeps."""
    part = {name: {key: r for key, r in of.items() if keep(key[0])} for name, of in runs.items()}
    made = []
    for name, of in part.items():
        if not of:
            continue
        row: dict[str, Any] = {"method": name, "runs": len(of), "budget": METHODS[name].fulls}
        row["fulls"] = float(np.exp(np.mean([math.log(r["fulls"]) for r in of.values()])))
        for budget in WITHIN:
            row[f"within_{budget}"] = float(np.mean([r["reached"] and r["fulls"] <= budget for r in of.values()]))
        row["missed"] = float(np.mean([not r["reached"] for r in of.values()]))
        for other in ("stock", "random"):
            if part.get(other):
                cap = min(METHODS[name].fulls, METHODS[other].fulls)
                row[f"over_{other}"] = speedup(of, part[other], cap)
                row[f"over_{other}_both"] = speedup(of, part[other], cap, both=True)
        made.append(row)
    return made


def markdown(parts: dict[str, list[dict[str, Any]]]) -> str:
    """Return the tables as text."""
    lines = []
    for part, content in parts.items():
        heads = ["method", "runs", "full trainings", "over stock Ray", "where both reached", "over random"]
        heads += [*(f"reached within {budget}" for budget in WITHIN), "missed", "of"]
        lines += ["", f"### {part}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for row in content:
            cells = [METHODS[row["method"]].title, str(row["runs"]), f"{row['fulls']:.1f}"]
            for key in ("over_stock", "over_stock_both", "over_random"):
                value = row.get(key, math.nan)
                cells.append("–" if math.isnan(value) else f"{value:.2f}x")
            cells += [f"{100 * row[f'within_{budget}']:.0f} %" for budget in WITHIN]
            lines.append("| " + " | ".join([*cells, f"{100 * row['missed']:.1f} %", str(row["budget"])]) + " |")
    return "\n".join(lines[1:])


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="a CSV file: hyperparameters, then epoch_1 .. epoch_n")
    parser.add_argument("--mode", choices=["max", "min"], default="max", help="whether higher is better in --table")
    parser.add_argument("--curves", type=Path, default=HERE.parents[1] / "shared" / "data" / "curves")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    if given.table:
        found[given.table.stem] = tables.from_csv(given.table, given.mode)
        given.out = given.out / given.table.stem
        given.out.parent.mkdir(exist_ok=True)
    else:
        if (given.curves / "medquicktune").is_dir():
            found |= tables.medquicktune(given.curves / "medquicktune")
        if (given.curves / "yahpo_lcbench").is_dir():
            found |= tables.lcbench(given.curves / "yahpo_lcbench")
    if not found:
        raise SystemExit(f"{given.curves} holds no curves; give --curves DIR, or --table FILE.csv for your own.")
    runs = measure(given.methods.split(","), found, given.seeds, given.out)
    parts = {"all tables": rows(runs, lambda table: True)}
    for family in sorted({table.split()[0] for table in found} if not given.table else ()):
        parts[family] = rows(runs, lambda table, f=family: table.startswith(f))
    if not given.table:
        held_out = set(list(found)[1::2])
        parts["held-out half (the choices but the first rung's were made on the other half)"] = rows(
            runs, held_out.__contains__
        )
    (given.out / "summary.json").write_text(json.dumps(parts, indent=1))
    print(markdown(parts))


if __name__ == "__main__":
    main()
