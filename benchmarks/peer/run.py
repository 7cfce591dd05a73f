"""The stock search: Ray Tune, OptunaSearch, ASHA, MLflow's callback, PEFT, DataLoader.

python -m peer.run --job job.json --baseline i     a function trainable: a fresh process for every trial
python -m peer.run --job job.json --baseline ii    a class trainable with reused actors: the base is loaded once
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # noqa: E402
from optuna.distributions import json_to_distribution  # noqa: E402
from ray import tune  # noqa: E402
from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

from peer.marks import mark  # noqa: E402
from peer.stock import Reused, trial  # noqa: E402


def main() -> None:
    """Run the search that the job describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, required=True)
    parser.add_argument("--baseline", choices=("i", "ii"), required=True)
    args = parser.parse_args()
    job = json.loads(args.job.read_text())
    imported = time.perf_counter()
    ray.init(address="local", include_dashboard=False)
    ready = time.perf_counter()
    tuner = _tuner(job, reused=args.baseline == "ii")
    mark(job["marks"], "fit", phases={"imports": imported - STARTED, "ray.init": ready - imported})
    result = tuner.fit()
    mark(job["marks"], "done")
    best = result.get_best_result(job["metric"], "max", scope="all")
    print(f"best {job['metric']} {best.metrics[job['metric']]:.4f}: {best.config}")


def _tuner(job: dict[str, Any], *, reused: bool) -> tune.Tuner:
    trainable = tune.with_parameters(Reused if reused else trial, job=job)
    resources: dict[str, float] = {"cpu": 1}
    at_a_time = job["concurrency"]
    if gpus := ray.cluster_resources().get("GPU"):
        share = job["per_gpu"] if reused else 1
        resources["gpu"], at_a_time = 1 / share, int(gpus * share)
    metric = job["metric"]
    space = {name: json_to_distribution(text) for name, text in job["axes"].items()}
    search = OptunaSearch(space, metric=metric, mode="max", points_to_evaluate=job["points"], seed=job["seed"])
    asha = ASHAScheduler(max_t=len(job["reports"]), grace_period=1, reduction_factor=job["eta"])
    keep = {"num_to_keep": 2, "checkpoint_score_attribute": metric}
    frequency = {"checkpoint_frequency": 1} if reused else {}
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            metric=metric,
            mode="max",
            search_alg=search,
            scheduler=asha,
            num_samples=job["trials"],
            max_concurrent_trials=at_a_time,
            reuse_actors=reused,
        ),
        run_config=tune.RunConfig(
            name="peer",
            storage_path=job["storage"],
            callbacks=[MLflowLoggerCallback(tracking_uri=job["store"], experiment_name="peer")],
            checkpoint_config=tune.CheckpointConfig(**keep, **frequency),
            verbose=1,
        ),
    )


if __name__ == "__main__":
    main()
