"""The same search on both engines with one worker: do they decide alike, and what does each cost?

    python benchmarks/engines.py --space clip_lora --repeat 2
    python benchmarks/engines.py --space clip_head --marginal 8 40

The first form runs the search on ``hosts`` and ``tune`` in turn, in another order each time, caches warm. With
``--marginal A B`` it runs searches of A and of B trials: a marginal trial costs their difference over B - A.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import processes

ENGINES = ("hosts", "tune")
DECIDED = ("event", "trial", "params", "seed", "origin", "fidelity", "state", "reason", "samples", "checkpoint")


def one(args: argparse.Namespace) -> int:
    """Run one search in this process, with one worker."""
    from rich.console import Console

    from lungtune import cli
    from lungtune.search import driver
    from lungtune.search.backends.ray_hosts import cluster

    cluster.devices = lambda most=None: (1, False)
    options = driver.Options(
        space=args.space, study=args.study, trials=args.trials, seed=args.seed, engine=args.one, data=args.data or None,
        settings=cli.settings(["slots=1", *args.set]),
    )  # fmt: skip
    return driver.run(options, Console(width=160))


def search(args: argparse.Namespace, home: Path, engine: str, study: str, trials: int | None) -> dict[str, Any]:
    """Run one search in a process of its own; return its cost and its decisions."""
    from lungtune.core import journal

    command = [sys.executable, __file__, "--one", engine, "--study", study, "--space", args.space]
    command += ["--seed", str(args.seed), "--data", args.data, *(["--trials", str(trials)] if trials else [])]
    command += [word for setting in args.set for word in ("--set", setting)]
    environment = os.environ | {"LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache")}
    usage = processes.measure(command, home / f"{study}.log", environment, home, args.timeout)
    if usage.code:
        raise SystemExit(f"{study} ended with {usage.code}: {(home / f'{study}.log').read_text()[-2000:]}")
    events = journal.read(home / "studies" / study / "journal.jsonl")
    rows = [row for row in events if row["event"] in ("trial", "start", "report", "pause", "end")]
    decided = [{name: row[name] for name in DECIDED if name in row} for row in rows]
    scores = [row["metrics"] for row in rows if row["event"] == "report"]
    steps = [row["time"] for row in rows if row["event"] == "report"]
    count = sum(row["event"] == "trial" for row in rows)
    return {
        "engine": engine, "trials": count, "wall": usage.wall, "cpu": usage.cpu, "decided": decided, "scores": scores,
        "searched": max(steps) - min(row["time"] for row in rows),
    }  # fmt: skip


def alike(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return how far two searches agree."""
    differs = next(
        (k for k, (a, b) in enumerate(zip(first["decided"], second["decided"], strict=False)) if a != b), None
    )
    gaps = [
        abs(a[name] - b[name])
        for a, b in zip(first["scores"], second["scores"], strict=False)
        for name in a.keys() & b.keys()
        if isinstance(a[name], float) and name not in ("samples_per_second", "peak_memory_mb")
    ]
    return {
        "decisions": (len(first["decided"]), len(second["decided"])),
        "first difference": differs,
        "largest difference of a score": max(gaps, default=0.0),
    }


def main() -> None:
    """Run the searches and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="clip_lora")
    parser.add_argument("--data", default="", help="by default the built-in phantoms")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--marginal", type=int, nargs=2, metavar=("A", "B"))
    parser.add_argument("--timeout", type=float, default=1800)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--study", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        raise SystemExit(one(args))
    home = Path(tempfile.mkdtemp(prefix="lungtune-engines-"))
    began = time.perf_counter()
    search(args, home, "hosts", "warm", 1)
    print(f"caches filled in {time.perf_counter() - began:.0f} s", flush=True)
    counts = args.marginal or [args.trials]
    runs: list[dict[str, Any]] = []
    for turn in range(args.repeat):
        for count in counts:
            for engine in ENGINES[:: 1 if turn % 2 == 0 else -1]:
                run = search(args, home, engine, f"{engine}-{count}-{turn}", count)
                runs.append(run)
                print(
                    f"{engine:6} {run['trials']:3} trials: wall {run['wall']:6.1f} s, CPU {run['cpu']:6.1f} s, "
                    f"first trial to last report {run['searched']:6.1f} s",
                    flush=True,
                )
    result: dict[str, Any] = {"runs": [{k: v for k, v in r.items() if k not in ("decided", "scores")} for r in runs]}
    for name in ("wall", "cpu", "searched"):
        pairs = [_of(runs, turn, len(counts), name) for turn in range(args.repeat)]
        result[f"{name}, tune / hosts"] = statistics.median(tune / hosts for hosts, tune in pairs)
    result |= alike(*(next(run for run in runs if run["engine"] == engine) for engine in ENGINES))
    if args.marginal:
        result["marginal trial, CPU s"] = {engine: _marginal(runs, engine, args.marginal) for engine in ENGINES}
    for name, value in result.items():
        if name != "runs":
            print(f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def _of(runs: list[dict[str, Any]], turn: int, counts: int, name: str) -> tuple[float, float]:
    """Return a turn's sum of a figure on hosts and on tune."""
    per = 2 * counts
    some = runs[turn * per : (turn + 1) * per]
    return tuple(sum(run[name] for run in some if run["engine"] == engine) for engine in ENGINES)  # type: ignore[return-value]


def _marginal(runs: list[dict[str, Any]], engine: str, counts: list[int]) -> float:
    few, many = sorted(counts)
    cpu = {n: statistics.median(r["cpu"] for r in runs if r["engine"] == engine and r["trials"] == n) for n in counts}
    return (cpu[many] - cpu[few]) / (many - few)


if __name__ == "__main__":
    main()
