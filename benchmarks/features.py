"""Head-only trials over kept features, against one trial, one feature pass, and the same trials without keeping any.

PYTHONPATH=src:. python benchmarks/features.py                           64 linear probes, phantoms, tiny CLIP, CPU
PYTHONPATH=src:. python benchmarks/features.py --draw space --data chest_xray:DIR   trials drawn from the whole space
PYTHONPATH=src:. python benchmarks/features.py --search --trials 8       whole `scripts/search.py` commands

Without ``--search`` a Session trains the trials in this process: no Ray, no early stopping, every trial to its full
length with all its reports and checkpoints. Trials without kept features train to their first report only; the rest
is extrapolated, as every pass costs the same. Wall and CPU seconds: on a busy machine the second are the fair ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch

from lungtune import catalog
from lungtune.core import params as parameters
from lungtune.core.paths import ROOT
from lungtune.core.space import SearchSpace
from lungtune.data import dataset
from lungtune.data.dataset import Dataset
from lungtune.engine.session import Session
from lungtune.errors import TrialError
from processes import measure

PROBE = {"augmentation": 0, "batch_size": 32, "hidden": 0}
"""Parameters that all trials share when linear probes are requested."""


def main() -> None:
    """Measure and print a table."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows = _searches(args) if args.search else _sessions(args)
    for row in rows:
        extra = "".join(f"  {key} {value}" for key, value in row.items() if key not in ("what", "wall", "cpu"))
        print(f"{row['what']:<44}{row['wall']:9.2f} s wall{row['cpu']:9.2f} s CPU{extra}")
    if args.json:
        options = {key: str(value) for key, value in vars(args).items()}
        args.json.write_text(
            json.dumps({"torch": torch.__version__, "options": options, "rows": rows}, indent=1) + "\n"
        )


def _sessions(args: argparse.Namespace) -> list[dict[str, Any]]:
    space = catalog.space(args.space, args.profile)
    if args.views is not None:
        space = dataclasses.replace(space, base={**space.base, "views": args.views})
    fields = catalog.family(space.family).fields
    data = dataset.load(dataset.inspect(args.data), fields, space.base["image_size"])
    draws = _draw(space, args)
    with tempfile.TemporaryDirectory(prefix="lungtune-features-") as folder:
        os.environ["LUNGTUNE_CACHE"] = str(Path(folder) / "cache")
        _train(space, data, draws[:1], Path(folder) / "warm", passes=0)  # imports, first calls

        def train(*what: Any, **options: Any) -> dict[str, Any]:
            return _timed(lambda: _train(space, data, *what, **options))

        bank_files = Path(folder) / "cache" / "features"
        first = train(draws[:1], Path(folder) / "first")
        one = train(draws[:1], Path(folder) / "one")
        shutil.rmtree(bank_files)
        cold = train(draws, Path(folder) / "cold")
        many = train(draws, Path(folder) / "many")
        files = list(bank_files.glob("*.bin"))
        about = {"files": len(files), "MB": round(sum(file.stat().st_size for file in files) / 1e6, 1)}
        bare_space = dataclasses.replace(space, base={**space.base, "views": 0})
        few = draws[: args.uncached]
        bare = _timed(lambda: _train(bare_space, data, few, Path(folder) / "bare", passes=space.fidelity.reports[0]))
    scale = args.trials / len(few) * space.fidelity.max / space.fidelity.reports[0]
    features = {key: first[key] - one[key] for key in first}
    bound = {key: 2 * (one[key] + features[key]) for key in one}
    images = f"{len(data.train):,} + {len(data.validation):,} images"
    return [
        {"what": f"feature pass, {images}", **features},
        {"what": "one trial, features at hand", **one},
        {"what": f"{args.trials} trials, features at hand", **many},
        {"what": f"{args.trials} trials from nothing", **cold, **about},
        {"what": "bound: 2 x (one trial + one feature pass)", **bound},
        {"what": f"{len(few)} trials without, to the first report", **bare},
        {"what": f"{args.trials} trials without, extrapolated", **{key: bare[key] * scale for key in bare}},
    ]


def _draw(space: SearchSpace, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the space's configurations: the reference first, then random ones."""
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask(dict(space.axes)).params for _ in range(args.trials - 1)]
    same = PROBE if args.draw == "probe" else {}
    return [{**space.fixed, **space.start[0]}, *({**space.fixed, **values, **same} for values in drawn)]


def _train(
    space: SearchSpace, data: Dataset, draws: list[dict[str, Any]], folder: Path, passes: float | None = None
) -> None:
    """Train trials together until each has passed over the data so often; by default to their full length."""
    family = catalog.family(space.family)
    base = parameters.build(family.Base, space.base)
    session = Session(family, base, data, space.fidelity, space.objective, slots=len(draws))
    if passes == 0:
        return
    for number, values in enumerate(draws):
        session.start(number, values, number, folder / str(number))
    while session.runs:
        for number, due in session.step():
            if isinstance(due, TrialError) or due.fidelity >= (passes or space.fidelity.max) - 1e-6:
                session.leave(number)


def _searches(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Time whole searches, all processes counted: cache empty (images are read as well), features at hand, none."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="lungtune-features-") as folder:
        env = dict(os.environ) | {"LUNGTUNE_HOME": folder, "LUNGTUNE_CACHE": f"{folder}/cache"}
        cache = Path(folder) / "cache" / "features"
        for what, count, views in (
            ("search, empty cache", args.trials, None),
            ("search, features at hand", args.trials, None),
            ("search, features at hand", 1, None),
            ("search without kept features", args.uncached, 0),
        ):
            before = len(list(cache.glob("*.bin")))
            command = [sys.executable, str(ROOT / "scripts" / "search.py"), "--space", args.space, "--data", args.data]
            command += ["--profile", args.profile, "--trials", str(count), "--study", f"s{len(rows)}"]
            command += [] if views is None else ["--set", f"views={views}"]
            used = measure(command, Path(folder) / "log", env, ROOT, 3600.0)
            if used.code:
                raise SystemExit((Path(folder) / "log").read_text()[-2000:])
            new = len(list(cache.glob("*.bin"))) - before
            rows.append({"what": f"{what}, {count} trials", "wall": used.wall, "cpu": used.cpu, "files": new})
    return rows


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    """Return wall and CPU seconds of a call, its child processes included."""
    wall, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return {"wall": time.perf_counter() - wall, "cpu": sum(after[:4]) - sum(before[:4])}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="clip_head")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--data", default="phantom", help="as for scripts/search.py")
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--draw", choices=("probe", "space"), default="probe", help="linear probes, or the whole space")
    parser.add_argument("--views", type=int, help="augmented views of an image; default: the space's")
    parser.add_argument("--uncached", type=int, default=2, help="trials without kept features")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--search", action="store_true", help="time whole scripts/search.py commands")
    parser.add_argument("--json", type=Path, help="also write the table here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
