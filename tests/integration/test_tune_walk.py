"""Every family as a Ray Tune trainable, ASHA over the devices, trials in MLflow, the best exported and retrained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

import own_data
from lungtune import catalog
from lungtune.core.paths import ROOT
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.retrain import retrain
from lungtune.tracking import Tracker
from lungtune.tune import export, packed, param_space, record, trainable
from shared_ray import shared_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEARCHED = {
    "clip_lora": {"lr", "lora_rank", "lora_alpha", "augmentation", "synthetic_ratio"},
    "res_unet": {"lr", "lambda2", "augmentation"},
    "sd_lora": {"lr", "lora_rank", "lora_alpha"},
}
"""Axes that the product promises to search."""

TRIALS = 3
OWN = "volume_head"
FAMILIES = sorted(
    path.stem for path in (ROOT / "search_spaces").glob("*.yaml") if (ROOT / "trainables" / f"{path.stem}.py").exists()
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A home with the miniatures, and one local Ray."""
    home = tmp_path_factory.mktemp("home")
    with shared_ray(home, furnish, LUNGTUNE_PATH=str(ROOT / "tests" / "contract" / "own"), RAY_AIR_NEW_OUTPUT="0"):
        yield home


@pytest.mark.parametrize("name", [*FAMILIES, OWN])
def test_family_is_searched_tracked_and_retrained(home: Path, tmp_path: Path, name: str) -> None:
    arguments: dict[str, Any] = {"data": "phantom,n=100,test=30", "profile": "demo"}
    if name == OWN:
        arguments = {"data": own_data.volumes(tmp_path)}
    short: dict[str, Any] = {"fidelity.max": 1.5, "fidelity.min": 0.5}
    if name == "sd_lora":
        short = {"fidelity.max": 0.6, "fidelity.min": 0.2, "fidelity.report": 0.2}
    if name == "clip_lora":  # a bank of synthetic images for this split would first train a generator
        assert "synthetic_ratio" in param_space(name, **arguments)
        short["synthetic_ratio"] = 0
    axes = param_space(name, **arguments, **short)
    assert SEARCHED.get(name, {"lr"}) - {"synthetic_ratio"} <= axes.keys()
    cls = trainable(name, study=name, **arguments, **short)
    goal = catalog.space(name, arguments.get("profile") or "full", short).objective
    results = tune.Tuner(
        cls,
        param_space=axes,
        tune_config=tune.TuneConfig(
            metric=goal.metric,
            mode=goal.mode,
            num_samples=TRIALS,
            search_alg=OptunaSearch(seed=0),
            scheduler=packed(ASHAScheduler(max_t=3, grace_period=1, reduction_factor=3)),
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert results.num_errors == 0
    assert record(results) == name
    study = Study.open(name)
    trials = study.history().trials
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials.values()} <= {State.COMPLETE, State.PRUNED}
    tracker = Tracker(study.folder).start()
    assert tracker.stop(120)
    mlflow.set_tracking_uri(tracker.uri)
    runs = mlflow.search_runs(search_all_experiments=True, filter_string=f"tags.study = '{name}'")
    assert (runs["tags.lungtune.kind"] == "trial").sum() == TRIALS
    (recipe,) = export(results)
    assert retrain(recipe).reproduced == "yes"
