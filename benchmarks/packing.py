"""Packing K trials on one frozen base, against single trials and against K processes.

PYTHONPATH=src:. python benchmarks/packing.py --quick              CPU, tiny CLIP, about two minutes
PYTHONPATH=src:. python benchmarks/packing.py --json packing.json  on a GPU: ViT-B/16 and ViT-L/14, random weights

Every contestant has the whole machine: on a CPU one process uses all cores, K processes share them. Contestants take
turns; ratios are medians over the turns. Needs torch, timm, peft, transformers and open_clip, no Ray and no MLflow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from contestants import DEVICE, Eager, Packed, Setting, forget, matmul_rate, memory, rate
from lungtune.core import environment


def main() -> None:
    """Measure every model and batch size; print a table for each."""
    args = _arguments()
    if args.worker:
        _work(args)
        return
    torch.set_num_threads(args.threads)
    peak = matmul_rate()
    print(f"{_device()}, torch {torch.__version__}; a large product runs at {peak / 1e12:.3g} TFLOP/s", flush=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="lungtune-packing-") as folder:
        for model in args.models:
            setting = Setting.of(model, Path(folder))
            eager, packed = Eager(setting), Packed(setting, max(args.counts + args.processes))
            found = [{"model": model, "batch": batch} | _in_turns(eager, packed, batch, args) for batch in args.batches]
            flops = eager.flops(args.batches[0])
            peak = max([peak, *(result["matmul_flops"] for result in found)])
            del eager
            forget()
            for count in args.processes:
                _against_processes(setting, packed, count, found, args)
            for result in found:
                _show(result, flops, peak)
            results += found
    if args.json:
        options = {key: str(value) for key, value in vars(args).items()}
        content = {"device": _device(), "torch": torch.__version__, "matmul_flops": peak, "options": options}
        args.json.write_text(json.dumps({**content, "results": results}, indent=1) + "\n")


def _in_turns(eager: Eager, packed: Packed, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Time eager, compiled and packs of every K, all in this process."""
    rates: dict[str, list[float]] = {}
    held, notes, peak = {}, [], 0.0
    singles: dict[str, Callable[[], int]] = {"eager PEFT": eager.ready(batch)}
    if DEVICE == "cuda" or args.compile:
        try:
            compiled = eager.ready(batch, compiled=True)
            rate(compiled, 0.0, warm=5)
            singles["compiled PEFT"] = compiled
        except Exception as error:  # a compiler may fail in any way; the table then says so
            notes.append(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
    for _ in range(args.turns):
        peak = max(peak, matmul_rate())
        for name, step in singles.items():
            rates.setdefault(name, []).append(rate(step, args.seconds))
        for count in args.counts:
            packed.ready(0, batch)
            forget()
            before = memory()
            step = packed.ready(count, batch)
            rates.setdefault(f"pack {count}", []).append(rate(step, args.seconds))
            held.setdefault(count, memory() - before)
    return {"rates": rates, "memory_mb": held, "notes": notes, "matmul_flops": peak}


def _against_processes(
    setting: Setting, packed: Packed, count: int, found: list[dict[str, Any]], args: argparse.Namespace
) -> None:
    """Time ``count`` processes that train one trial each, eager or by lungtune, beside a pack of as many."""
    with _workers(setting, count, args) as together:
        for result in found:
            rates, batch = result["rates"], result["batch"]
            for _ in range(args.turns):
                for kind in ("eager PEFT", "pack 1"):
                    rates.setdefault(f"{count} processes of {kind}", []).append(together(kind, batch))
                step = packed.ready(count, batch)
                rates.setdefault(f"pack {count} beside", []).append(rate(step, args.seconds))


@contextmanager
def _workers(setting: Setting, count: int, args: argparse.Namespace) -> Iterator[Callable[[str, int], float]]:
    """Start processes and wait for them; yield a function that runs all at once and returns their images a second."""
    told = json.dumps({"weights": setting.weights, "size": setting.size})
    threads = str(max(1, args.threads // count))
    command = [sys.executable, __file__, "--worker", told, "--seconds", str(args.seconds), "--threads", threads]
    crowd = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(count)
    ]

    def together(kind: str, batch: int) -> float:
        for order in (f"warm {batch} {kind}", f"run {batch} {kind}"):
            for worker in crowd:
                worker.stdin.write(order + "\n")
            answers = [worker.stdout.readline() for worker in crowd]
        return sum(map(float, answers))

    try:
        if [worker.stdout.readline() for worker in crowd] != ["ready\n"] * count:
            raise SystemExit("a worker process did not start; its message is above")
        yield together
    finally:
        for worker in crowd:
            worker.stdin.close()
            worker.wait()


def _work(args: argparse.Namespace) -> None:
    """Read commands from standard input: ``warm BATCH KIND`` and ``run BATCH KIND``."""
    torch.set_num_threads(args.threads)
    setting = Setting(**json.loads(args.worker))
    eager, packed = Eager(setting), Packed(setting, 1)
    print("ready", flush=True)
    for order in sys.stdin:
        verb, batch, kind = order.strip().split(" ", 2)
        if verb == "warm":
            step = packed.ready(1, int(batch)) if kind == "pack 1" else eager.ready(int(batch))
        print(rate(step, args.seconds if verb == "run" else 0.0), flush=True)


def _show(result: dict[str, Any], flops: float, peak: float) -> None:
    """Complete a result by its medians and print it."""
    rates = result["rates"]
    solo, eager = rates["pack 1"], rates["eager PEFT"]
    result["gflop_per_image"] = flops / 1e9
    print(f"\n{result['model']}, batch {result['batch']}: {flops / 1e9:.3g} GFLOP an image (as eager PEFT computes it)")
    header = ("images/s", "over pack 1", "over eager", "of product", "MiB")
    print(f"{'':28}" + "".join(f"{title:>13}" for title in header))
    table: dict[str, dict[str, Any]] = {}
    for name, values in rates.items():
        speed = statistics.median(values)
        row = {"images_per_s": speed, "over_solo": _ratio(values, solo), "over_eager": _ratio(values, eager)}
        row |= {"share_of_product": speed * flops / peak, "memory_mb": None}
        if name.removeprefix("pack ").isdigit():
            row["memory_mb"] = result["memory_mb"][int(name.removeprefix("pack "))]
        table[name] = row
        held = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
        cells = f"{speed:13.4g}{row['over_solo']:13.2f}{row['over_eager']:13.2f}"
        print(f"{name:28}{cells}{100 * row['share_of_product']:12.1f}%{held:>13}")
    for name in (n for n in rates if " processes " in n):
        count = name.split()[0]
        ratio = _ratio(rates[f"pack {count} beside"], rates[name])
        table[name]["pack_over_processes"] = ratio
        print(f"  pack {count} over {name}: {ratio:.2f}x")
    counts = sorted(result["memory_mb"])
    if len(counts) > 1:
        low, high = counts[0], counts[-1]
        slot = (result["memory_mb"][high] - result["memory_mb"][low]) / (high - low)
        result["memory_per_slot_mb"] = slot
        print(f"  memory of one more slot: {slot:.0f} MiB")
    for note in result["notes"]:
        print(f"  {note}")
    result["table"] = table


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median ratio over the turns."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _device() -> str:
    return torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {environment.cores()} cores"


def _arguments() -> argparse.Namespace:
    on_gpu = DEVICE == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="few K, short turns")
    add("--models", nargs="+", default=["ViT-B-16", "ViT-L-14"] if on_gpu else ["tiny_clip"])
    add("--batches", nargs="+", type=int, default=[4, 16])
    add("--counts", nargs="+", type=int, help="K of the packs, 1 among them (default 1 2 4 8 16)")
    add("--processes", nargs="*", type=int, help="K of the processes (default 2 4 8 on a GPU, else 2)")
    add("--seconds", type=float, help="length of a turn")
    add("--turns", type=int, default=3)
    add("--threads", type=int, default=environment.cores(), help="CPU threads of all contestants together")
    add("--compile", action="store_true", help="torch.compile on a CPU too")
    add("--worker", help=argparse.SUPPRESS)
    add("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    args.counts = sorted(args.counts or ([1, 4, 8] if args.quick else [1, 2, 4, 8, 16]))
    args.processes = ([2, 4, 8] if on_gpu else [2]) if args.processes is None else args.processes
    args.seconds = args.seconds or (1.0 if args.quick else 3.0)
    if 1 not in args.counts:
        parser.error("--counts must have 1 among them: the solo run")
    return args


if __name__ == "__main__":
    main()
