"""Ray Tune's schedulers over lungtune's families: errors, passes and wall seconds of each experiment.

Each cell is a stock ``tune.Tuner`` with ``packed(scheduler)`` on small phantoms and the shipped bases. PBT and PB2 take
no searcher (Ray refuses one), the others OptunaSearch.

    python benchmarks/tune_matrix.py --families clip_head,clip_lora --schedulers asha,pbt --trials 4
    python benchmarks/tune_matrix.py --marginal 8 40

With ``--marginal A B``: experiments of A and of B trials of ``clip_head`` that train one step each; a marginal trial
costs their difference over B - A.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import processes

FAMILIES = ("clip_head", "clip_lora", "resnet50_full", "res_unet", "sd_lora", "volume_head")
SCHEDULERS = ("asha", "hyperband", "pbt", "pb2", "bohb")
OWN = Path(__file__).parents[1] / "tests" / "contract" / "own"
SHORT = {"fidelity.max": 1.5, "fidelity.min": 0.5}
ONE_STEP = {"fidelity.max": 0.04, "fidelity.min": 0.02, "fidelity.report": 0.04}


def scheduler(name: str, space: Any, seed: int) -> tuple[Any, Any]:
    """Return a scheduler of Tune and its searcher."""
    import dataclasses

    from ray.tune import schedulers
    from ray.tune.search.optuna import OptunaSearch

    from lungtune.core.scheduler import SchedulerConfig
    from lungtune.search.backends.ray_tune import inner

    if name == "asha":
        return schedulers.ASHAScheduler(max_t=3, grace_period=1, reduction_factor=3), OptunaSearch(seed=seed)
    lengths = {"hyperband": {"reduction_factor": 3}, "bohb": {"reduction_factor": 3}}
    searched = dataclasses.replace(
        space, scheduler=SchedulerConfig(name, lengths.get(name, {"perturbation_interval": 1}))
    )
    searcher = inner.Bohb(space, seed).searcher if name == "bohb" else None
    return inner.scheduler(searched, seed), OptunaSearch(seed=seed) if name == "hyperband" else searcher


def cell(family: str, name: str, trials: int, one_step: bool = False) -> dict[str, Any]:
    """Run one experiment; with ``one_step`` a report is due after one step."""
    from ray import tune

    from lungtune import catalog
    from lungtune.tune import packed, param_space, trainable
    from tests.integration import own_data

    own = family == "volume_head"
    source = own_data.volumes(Path(tempfile.mkdtemp())) if own else "phantom,n=100,test=30"
    profile = None if own else "demo"
    settings = SHORT if family != "sd_lora" else {"fidelity.max": 0.6, "fidelity.min": 0.2, "fidelity.report": 0.2}
    settings = ONE_STEP if one_step else settings
    if family == "clip_lora":
        settings = settings | {"synthetic_ratio": 0}  # else a generator is trained first, for these few images
    arguments: dict[str, Any] = {"data": source, "profile": profile, **settings}
    space = catalog.space(family, profile or catalog.default_profile(family, source), settings)
    began = time.perf_counter()
    decider, searcher = scheduler(name, space, 0)
    goal = space.objective
    results = tune.Tuner(
        trainable(family, **arguments),
        param_space={} if name == "bohb" else param_space(family, **arguments),  # TuneBOHB has the space
        tune_config=tune.TuneConfig(
            metric=goal.metric, mode=goal.mode, num_samples=trials, search_alg=searcher, scheduler=packed(decider)
        ),
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(), verbose=0),
    ).fit()
    reached = [result.metrics.get("fidelity", 0.0) for result in results]
    return {
        "family": family,
        "scheduler": name,
        "trials": len(results),
        "errors": results.num_errors,
        "passes": round(sum(reached), 2),
        "seconds": round(time.perf_counter() - began, 1),
    }


def marginal(few: int, many: int) -> None:
    """Print what one more trial of an experiment costs, its training left out as far as one step allows."""
    home = Path(os.environ["LUNGTUNE_HOME"])
    spent = {}
    for count in (few, few, many):  # the first fills the caches
        command = [sys.executable, __file__, "--families", "clip_head", "--schedulers", "asha", "--one-step"]
        usage = processes.measure([*command, "--trials", str(count)], home / "log", os.environ, home, 900)
        if usage.code:
            raise SystemExit((home / "log").read_text()[-2000:])
        spent[count] = usage
        print(f"{count} trials: {usage.wall:.1f} s, {usage.cpu:.1f} processor s", flush=True)
    gaps = [(getattr(spent[many], name) - getattr(spent[few], name)) / (many - few) for name in ("cpu", "wall")]
    print(f"a marginal trial: {gaps[0]:.3f} processor s, {gaps[1]:.3f} s")


def main() -> None:
    """Run the cells and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--schedulers", default=",".join(SCHEDULERS))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--marginal", type=int, nargs=2, metavar=("A", "B"))
    parser.add_argument("--one-step", action="store_true", help="trials that train one step")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "integration"))
    os.environ["LUNGTUNE_PATH"] = str(OWN)
    os.environ.setdefault("LUNGTUNE_HOME", tempfile.mkdtemp())
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if args.marginal:
        marginal(*args.marginal)
        return
    import ray

    from lungtune.search import backends  # noqa: F401  # sets Ray's switches

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    rows = []
    print(f"{'family':15} {'scheduler':10} {'trials':>6} {'errors':>6} {'passes':>7} {'seconds':>8}")
    for family in args.families.split(","):
        for name in args.schedulers.split(","):
            row = cell(family, name, args.trials, args.one_step)
            rows.append(row)
            print(
                f"{row['family']:15} {row['scheduler']:10} {row['trials']:6} {row['errors']:6} {row['passes']:7} "
                f"{row['seconds']:8}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
