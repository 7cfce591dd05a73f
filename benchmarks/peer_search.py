"""The whole search against the same search written with stock pieces.

python benchmarks/peer_search.py --data chest_xray:DIR --json peer.json
python benchmarks/peer_search.py --data chest_xray:DIR --trials 4 --passes 1 --limit 400 --repeat 1

Sides: ``lungtune`` is ``scripts/search.py``; ``i`` and ``ii`` are ``peer/run.py``. They run in turn, in another order
each time, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
from lungtune.core import environment
from peer import job as jobs
from peer import outcome

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("lungtune", "i", "ii")
ROWS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "wall": ("wall, s", lambda r: r["usage"]["wall"]),
    "cpu": ("CPU, s", lambda r: r["usage"]["cpu"]),
    "pss": ("peak memory (PSS), MiB", lambda r: r["usage"]["pss_mb"]),
    "rss": ("peak memory (summed RSS), MiB", lambda r: r["usage"]["rss_mb"]),
    "first_step": ("command to first optimiser step, s", lambda r: r["first_step"] - r["usage"]["began"]),
    "target": ("command to target score, s", lambda r: r["target"]),
    "passes": ("passes trained", lambda r: r["passes"]),
    "steps": ("optimiser steps", lambda r: r["steps"]),
    "wall_per_pass": ("wall per pass, s", lambda r: r["usage"]["wall"] / r["passes"]),
    "cpu_per_pass": ("CPU per pass, s", lambda r: r["usage"]["cpu"] / r["passes"]),
    "wall_per_kstep": ("wall per 1,000 steps, s", lambda r: 1000 * r["usage"]["wall"] / r["steps"]),
    "best": ("best validation score", lambda r: r["best"]),
    "logged": ("metric values in MLflow", lambda r: r["logged_values"]),
}


def main() -> None:
    """Run all sides, print the table."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="lungtune-peer-") as name:
        work = Path(name)
        searched, settings = jobs.space(args.space, args.profile_name, args.passes)
        os.environ["LUNGTUNE_CACHE"] = str(work / "prepared")  # the split's own scan must not warm lungtune's cache
        source = jobs.images(args.data, args.limit, work / "images")
        job = jobs.make(searched, source, args.seed)
        extra = ("trials", "concurrency", "per_gpu", "workers", "keep")
        job |= {key: getattr(args, key) for key in extra} | {"trials": args.trials or searched.trials}
        size = f"{len(job['train'])} training and {len(job['validation'])} validation images"
        length = f"{job['trials']} trials of up to {searched.fidelity.max:g} passes"
        about = f"{length}, {size} at {searched.base['image_size']} px"
        print(f"{about}; caches {'kept between repetitions' if args.warm else 'cold'}", flush=True)
        imports = "import torch, ray.tune, mlflow, optuna, peft, open_clip, sklearn.metrics"
        subprocess.run([sys.executable, "-c", imports], check=True)  # so that no side pays for a cold disk
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in args.sides}
        for turn in range(args.repeat):
            order = list(args.sides) if args.same_points else _rotated(args.sides, turn)
            points = job["points"]
            for side in order:
                folder = work / f"{side}-{turn}"
                folder.mkdir()
                run = _lungtune if side == "lungtune" else _peer
                result = run(side, {**job, "points": points}, settings, source, folder, work, args)
                if args.same_points and side == "lungtune":
                    points = result["points"]
                runs[side].append(result)
                told = {name: read(result) for name, (_, read) in ROWS.items() if name != "target"}
                print(f"  {side:9}" + ", ".join(f"{k} {v:.4g}" for k, v in told.items()), flush=True)
    scores = [result["start_score"] for results in runs.values() for result in results]
    target = statistics.median(scores) if args.target is None else args.target
    for result in (result for results in runs.values() for result in results):
        result["target"] = outcome.time_to(target, result["reports"], result["usage"]["began"])
    table = _table(runs)
    _show(table, runs, target, job["metric"])
    if args.json:
        options = {key: str(value) for key, value in vars(args).items()}
        machine = {"cores": environment.cores(), **environment.describe()}
        content = {"about": about, "options": options, "machine": machine, "target": target, "table": table}
        args.json.write_text(json.dumps({**content, "runs": runs}, indent=1) + "\n")


def _lungtune(
    side: str, job: dict, settings: dict, source: str, folder: Path, work: Path, args: argparse.Namespace
) -> dict[str, Any]:
    search = ["-m", "peer.timed_lungtune"] if args.profile else ["scripts/search.py"]
    command = [sys.executable, *search, "--space", args.space, "--profile", args.profile_name, "--data", source]
    command += ["--trials", str(job["trials"]), "--seed", str(args.seed)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    cache = work / "cache" if args.warm else folder / "cache"
    env = {"LUNGTUNE_HOME": str(folder / "home"), "LUNGTUNE_CACHE": str(cache), "MARKS": str(folder / "marks")}
    usage = _run(side, command, folder, env, args.timeout)
    result = outcome.of_lungtune(folder / "home", folder / "marks", job["metric"])
    if result["split"] != job["split"]:
        raise SystemExit("both sides must train on the same split, but lungtune drew another one")
    return {**result, "usage": usage}


def _peer(
    side: str, job: dict, settings: dict, source: str, folder: Path, work: Path, args: argparse.Namespace
) -> dict[str, Any]:
    job |= {"marks": str(folder / "marks"), "storage": str(folder / "ray"), "store": f"sqlite:///{folder}/mlflow.db"}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "peer.run", "--job", str(folder / "job.json"), "--baseline", side]
    usage = _run(side, command, folder, {}, args.timeout)
    return {
        **outcome.of_peer(folder / "marks", folder / "mlflow.db", len(job["train"]), job["split"]),
        "usage": usage,
    }


def _run(side: str, command: list[str], folder: Path, env: dict[str, str], timeout: float) -> dict[str, Any]:
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), str(ROOT / "benchmarks")])
    hidden = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "LUNGTUNE_CACHE", "LUNGTUNE_HOME")
    inherited = {key: value for key, value in os.environ.items() if key not in hidden}
    usage = processes.measure(command, folder / "log", {**inherited, "PYTHONPATH": paths, **env}, ROOT, timeout)
    if usage.code:
        tail = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-40:])
        raise SystemExit(f"{tail}\nside {side} ended with exit code {usage.code}; its last output is above")
    return usage.to_dict()


def _rotated(sides: list[str], turn: int) -> list[str]:
    at = turn % len(sides)
    return [*sides[at:], *sides[:at]]


def _table(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by row and side: all ``values``, their ``median``, and the median of the paired ``ratio`` to lungtune."""
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for name, (_, read) in ROWS.items():
        for side, results in runs.items():
            values = [read(result) for result in results]
            known = [v for v in values if v is not None]
            cell: dict[str, Any] = {"values": values, "median": statistics.median(known) if known else None}
            if side != "lungtune" and "lungtune" in runs:
                pairs = [(v, read(own)) for v, own in zip(values, runs["lungtune"], strict=True)]
                ratios = [v / own for v, own in pairs if v is not None and own]
                cell |= {"ratios": ratios, "ratio": statistics.median(ratios) if ratios else None}
            table.setdefault(name, {})[side] = cell
    return table


def _show(table: dict, runs: dict[str, list[dict[str, Any]]], target: float, metric: str) -> None:
    number = lambda v: "-" if v is None else f"{v:.4g}"  # noqa: E731
    print(f"\nmedians; in brackets the median of the paired ratios to lungtune; target {metric} {target:.4f}")
    print(f"{'':38}" + "".join(f"{side:>20}" for side in runs))
    for name, (title, _) in ROWS.items():
        cells = table[name].values()
        texts = [number(c["median"]) + (f" ({number(c['ratio'])}x)" if "ratio" in c else "") for c in cells]
        print(f"{title:38}" + "".join(f"{text:>20}" for text in texts))
    for side, results in runs.items():
        last = results[-1]
        when = ", ".join(f"{name} {t - last['usage']['began']:.1f}" for name, t in last["when"].items())
        print(f"\n{side}, seconds after the command: {when}, exit {last['usage']['wall']:.1f}")
        if last["phases"]:
            print("  summed over its processes: " + ", ".join(f"{k} {v:.1f}" for k, v in last["phases"].items()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", default="phantom", help="phantom (written out as JPEG), chest_xray:DIR, folder:DIR, table:FILE.csv")
    add("--limit", type=int, metavar="N", help="only about N images")
    add("--space", default="clip_lora")
    add("--profile-name", default="demo", help="the space's profile (default demo)")
    add("--trials", type=int, help="default: the space's (24)")
    add("--passes", type=float, help="longest training (default: the space's, 3); reports at its ninths")
    add("--repeat", type=int, default=3)
    add("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    add(
        "--concurrency",
        type=int,
        default=environment.cores(),
        help="the peers' trials at a time on a CPU (default: cores)",
    )
    add("--per-gpu", type=int, default=4, help="trials of baseline ii that share a GPU")
    add(
        "--workers",
        type=int,
        default=0,
        help="the peers' DataLoader workers (default 0)",
    )
    add("--keep", action="store_true", help="the peers decode an image once a trial, not once a pass")
    add("--same-points", action="store_true", help="the peers try the configurations that lungtune's sampler chose")
    add("--warm", action="store_true", help="lungtune keeps its pixel cache between repetitions")
    add("--profile", action="store_true", help="clock lungtune's workers too")
    add("--target", type=float, help="score to reach (default: median of the start configuration's own scores)")
    add("--seed", type=int, default=0)
    add("--timeout", type=float, default=3600, help="seconds a run may take")
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.same_points and args.sides[0] != "lungtune":
        parser.error("--same-points needs lungtune as the first side")
    return args


if __name__ == "__main__":
    main()
