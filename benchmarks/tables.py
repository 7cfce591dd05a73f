"""Feature tables on a CPU, all cores and a measured batch, against one thread, torch's own threads and fixed batches.

PYTHONPATH=src:. python benchmarks/tables.py   EfficientNet-Lite0 and ResNet-18, 224 px
PYTHONPATH=src:. python benchmarks/tables.py --models efficientnet_lite0 --size 128

Random weights and images. Contestants take turns; a rate is the best of the turns, and ``cores`` is how many it then
had: on a busy machine not all. Only the table's rate includes augmentation and the file; the batch is measured before.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungtune import catalog
from lungtune.core import environment
from lungtune.data.dataset import Part
from lungtune.engine.backbone import Backbone
from lungtune.inputs import feature_cache
from lungtune.inputs.feature_cache import InputFactory

CPU = torch.device("cpu")


def main() -> None:
    """Measure each model; print a table for it."""
    args = _arguments()
    feature_cache._WORTH = 0
    with tempfile.TemporaryDirectory(prefix="lungtune-tables-") as folder:
        os.environ["LUNGTUNE_CACHE"] = folder
        found = {model: _measure(model, args) for model in args.models}
    for model, rows in found.items():
        print(f"\n{model}, {args.size} px, {environment.cores()} cores, torch {torch.__version__}")
        for what, row in rows.items():
            ratio, cores = rows["table"]["wall"] / row["wall"], row["wall"] / row["cpu"]
            each = f"{row['wall']:8.1f} cases/s{row['cpu']:8.1f} a CPU-second{cores:6.2f} cores"
            print(f"  {what:<28}{each}   table: {ratio:.2f} x", flush=True)
    if args.json:
        options = {key: str(value) for key, value in vars(args).items()}
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "options": options, "rates": found}, indent=1) + "\n"
        )


def _measure(model: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return cases a second of wall and of CPU time, by contestant."""
    family = catalog.family("resnet152_head")
    base = family.Base(model=model, weights="random", image_size=args.size, views=1)
    backbone = Backbone(family, base, ("a", "b"), CPU, None)
    pixels = np.random.default_rng(0).integers(0, 256, (args.cases, 1, args.size, args.size), dtype=np.uint8)
    names = np.arange(args.cases).astype(str)
    part = Part({"image": pixels, "label": np.zeros(args.cases, dtype=np.int64)}, {}, names, names)
    few = torch.from_numpy(pixels[: args.few]).float() / 255
    factory = InputFactory(family, base, backbone.model, backbone.features, CPU, backbone.precision)
    inputs: Any = factory.of(part)
    rates: dict[str, list[dict[str, float]]] = {}

    def fixed(threads: int, together: int) -> int:
        torch.set_num_threads(threads)
        for images in few.split(64):
            backbone.features({"image": images}, together)
        return len(few)

    views = count(1)

    def table() -> int:
        torch.set_num_threads(1)
        inputs._table(1, next(views))
        return args.cases

    contestants: dict[str, Any] = {"table": table, "one thread, usual batch": lambda: fixed(1, 0)}
    contestants["torch's threads, usual batch"] = lambda: fixed(environment.cores(), 0)
    for together in args.batches:
        contestants[f"one thread, batches of {together}"] = lambda together=together: fixed(1, together)
    backbone.features({"image": few[:1]})
    inputs._table(0, 0)
    print(f"{model}: {inputs._together} cases together", flush=True)
    for _ in range(args.turns):
        for what, compute in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            cases = compute()
            taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            rates.setdefault(what, []).append({key: cases / seconds for key, seconds in taken.items()})
    return {what: max(turns, key=lambda turn: turn["wall"]) for what, turns in rates.items()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["efficientnet_lite0", "resnet18"], help="timm's names")
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--cases", type=int, default=128, help="of a table")
    parser.add_argument("--few", type=int, default=64, help="cases of the other contestants")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32], help="fixed ones")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the rates here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
