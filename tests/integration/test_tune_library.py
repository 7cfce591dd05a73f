"""Families as trainables of stock Ray Tune: alone, packed, with Tune's own searchers, schedulers and callbacks."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray import tune
from ray.tune.execution import tune_controller
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from lungtune import cli
from lungtune import export as exporting
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.errors import SpaceError, StudyError
from lungtune.retrain import retrain
from lungtune.search import driver
from lungtune.search.backends.ray_hosts import cluster
from lungtune.tune import export, packed, param_space, record, trainable
from shared_ray import shared_ray
from tests.integration.tune_processes import gone, hosts_here

optuna.logging.set_verbosity(optuna.logging.WARNING)

WORDS = ["fidelity={max: 3, min: 1, eta: 3}", "batch_size=16"]
SETTINGS = cli.settings(WORDS)
DATA = {"data": "phantom,n=100,test=30", "profile": "demo"}
CONFIG = {"lr": 3e-3, "hidden": 64, "dropout": 0.1, "augmentation": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A home, and one local Ray."""
    home = tmp_path_factory.mktemp("home")
    with shared_ray(home, furnish, RAY_AIR_NEW_OUTPUT="0"):
        yield home


@pytest.fixture(scope="module")
def head(home: Path) -> type[tune.Trainable]:
    """The trainable of ``clip_head``."""
    return trainable("clip_head", **DATA, study="lib", seed=0, **SETTINGS)


def fit(
    home: Path, cls: Any, space: dict[str, Any], scheduler: Any = None, failures: int = 0, **config: Any
) -> tune.ResultGrid:
    goal = {"metric": "macro_f1", "mode": "max"}
    run = {"storage_path": str(home / "tune"), "verbose": 0}
    failure = tune.FailureConfig(max_failures=failures)
    return tune.Tuner(
        cls,
        param_space=space,
        tune_config=tune.TuneConfig(**goal, scheduler=scheduler, **config),
        run_config=tune.RunConfig(**run, failure_config=failure),
    ).fit()


@pytest.fixture(scope="module")
def searched(home: Path) -> tuple[tune.ResultGrid, set[int]]:
    """Packed ASHA with OptunaSearch, and the processes that trained it."""
    cls = trainable("clip_head", **DATA, study="searched", **SETTINGS)
    space = param_space("clip_head", **DATA, **SETTINGS)
    search_alg = OptunaSearch(seed=0)
    results = fit(
        home, cls, space, packed(ASHAScheduler(max_t=3), slots=2), search_alg=search_alg, num_samples=8
    )  # fmt: skip
    return results, {result.metrics["pid"] for result in results}


def test_packed_asha_has_one_process_a_core(searched: tuple[tune.ResultGrid, set[int]]) -> None:
    results, pids = searched
    assert len(results) == 8
    assert results.num_errors == 0
    assert len(pids) <= cluster.devices()[0]
    assert gone()


def test_recorded_results_export_and_reproduce(searched: tuple[tune.ResultGrid, set[int]], home: Path) -> None:
    results, _ = searched
    (recipe,) = export(results)
    done = retrain(recipe)
    assert done.reproduced == "yes"
    best = results.get_best_result()
    scores = best.metrics_dataframe["macro_f1"]
    assert done.content["runs"][0]["value"] == pytest.approx(scores.max(), abs=1e-4)
    before = Study.open("searched").history()
    assert record(results) == "searched"
    history = Study.open("searched").history()
    assert len(before.trials) == len(history.trials) == 8
    assert not history.of(State.FAIL, State.RUNNING, State.PAUSED)
    assert exporting.export("searched", 2)


def test_tensorboard_files_are_written(searched: tuple[tune.ResultGrid, set[int]]) -> None:
    results, _ = searched
    assert all(list(Path(result.path).glob("events.out.tfevents*")) for result in results)


@pytest.mark.slow
def test_all_ways_of_training_score_alike(home: Path, head: type[tune.Trainable]) -> None:
    """Stock actors, a pack, and lungtune's own loop."""
    space = {**CONFIG, "seed": tune.grid_search([0, 1])}
    alone, together = fit(home, head, space), fit(home, head, space, packed(slots=2))
    own = driver.Options(
        space="clip_head", study="own", trials=2, seed=0, **DATA,
        settings=cli.settings([*WORDS, "scheduler=none", *(f"{name}={value}" for name, value in CONFIG.items())]),
    )  # fmt: skip
    assert alone.num_errors == together.num_errors == 0
    assert driver.run(own, Console(quiet=True)) == 0
    reports = Study.open("own").history().trials[0].reports
    for results in (alone, together):
        frame = next(result for result in results if result.config["seed"] == 0).metrics_dataframe
        assert list(frame["fidelity"]) == [report.fidelity for report in reports]
        assert list(frame["training_iteration"]) == [1, 2, 3][: len(frame)]
        for name in ("macro_f1", "nll"):
            assert list(frame[name]) == pytest.approx([report.metrics[name] for report in reports], abs=1e-5)


@pytest.mark.slow
def test_checkpoint_of_a_result_is_self_contained(home: Path, head: type[tune.Trainable]) -> None:
    hyperband = packed(HyperBandScheduler(max_t=3), slots=2)
    results = fit(home, head, {**CONFIG, "lr": tune.loguniform(1e-4, 1e-2)}, hyperband, num_samples=4)
    assert results.num_errors == 0
    kept = [result.checkpoint for result in results if result.checkpoint]
    assert kept
    names = {path.name for path in Path(kept[0].path).iterdir()}
    assert "lungtune.json" in names
    assert any(name.endswith(".safetensors") for name in names)


@pytest.fixture(scope="module")
def population(home: Path) -> tune.ResultGrid:
    cls = trainable("clip_head", **DATA, study="stock-pbt", **SETTINGS)
    mutations = {"lr": tune.loguniform(1e-4, 1e-2), "dropout": tune.uniform(0.0, 0.5)}
    pbt = PopulationBasedTraining(
        time_attr="training_iteration", perturbation_interval=1, hyperparam_mutations=mutations, quantile_fraction=0.5
    )
    space = {**CONFIG, "lr": tune.loguniform(1e-4, 1e-2), "dropout": tune.uniform(0.0, 0.5)}
    return fit(home, cls, space, packed(pbt, slots=2), num_samples=4)


@pytest.mark.slow
def test_stock_pbt_exchanges_checkpoints(population: tune.ResultGrid) -> None:
    assert population.num_errors == 0
    segments = [result.metrics["segment"] for result in population]
    assert max(segments) >= 1
    ids = {result.metrics["trial_id"] for result in population}
    assert all(result.metrics["donor"] in ids for result in population if result.metrics["segment"])


@pytest.mark.slow
def test_recipe_of_stock_pbt_replays_its_segments(population: tune.ResultGrid) -> None:
    assert record(population) == "stock-pbt"
    history = Study.open("stock-pbt").history()
    perturbed = [trial for trial in history.ranked() if trial.best(history.objective).segment]
    assert perturbed
    top = [trial.number for trial in history.ranked()].index(perturbed[0].number) + 1
    recipe = exporting.export("stock-pbt", top)[-1]
    assert "segments:" in recipe.read_text()
    assert retrain(recipe).reproduced == "yes"


@pytest.mark.slow
def test_killed_host_costs_no_trial(home: Path, head: type[tune.Trainable]) -> None:
    killed: list[int] = []

    class Kill(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if not killed:
                killed.append(hosts_here()[0])
                os.kill(result["pid"], signal.SIGKILL)

    goal = {"metric": "macro_f1", "mode": "max"}
    results = tune.Tuner(
        head,
        param_space={**CONFIG, "lr": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(**goal, scheduler=packed(slots=2), num_samples=4),
        run_config=tune.RunConfig(
            storage_path=str(home / "tune"),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
            callbacks=[Kill()],
        ),
    ).fit()
    assert killed
    assert results.num_errors == 0
    assert [result.metrics["fidelity"] for result in results] == [3.0] * 4
    assert gone()


@pytest.mark.slow
def test_trial_that_cannot_be_set_up_fails_alone(home: Path, head: type[tune.Trainable]) -> None:
    space = {**CONFIG, "hidden": tune.grid_search([64, "many"]), "seed": 0}
    results = fit(home, head, space, packed(slots=2))
    assert results.num_errors == 1
    assert "hidden" in str(results.errors[0])
    assert max(result.metrics.get("fidelity", 0.0) for result in results) == 3.0
    odd = fit(home, head, {**CONFIG, "lr": Path("fast"), "seed": 0}, packed(slots=2))
    assert "lr must be a number" in str(odd.errors[0])
    unknown = fit(home, head, {"learning_rate": 1e-3}, packed(slots=2))
    assert "Did you mean 'lr'" in str(unknown.errors[0])


def test_packed_takes_trials_of_lungtune_alone(home: Path) -> None:
    with pytest.raises(SpaceError, match=r"packed\(\) takes trials of lungtune.tune.trainable, but got"):
        fit(home, tune.with_parameters(lambda config: None), {}, packed())


@pytest.mark.slow
def test_moved_names_of_ray_leave_ordinary_actors(
    home: Path, head: type[tune.Trainable], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = textwrap.dedent(inspect.getsource(tune_controller.TuneController)).replace("_class_cache", "_moved")
    names = dict(vars(tune_controller))
    exec(source, names)
    monkeypatch.setattr(sys.modules["ray.tune.tune"], "TuneController", names["TuneController"])
    with caplog.at_level(logging.WARNING):
        results = fit(home, head, {**CONFIG, "seed": tune.grid_search([0, 1])}, packed(slots=2))
    assert results.num_errors == 0
    assert len({result.metrics["pid"] for result in results}) == 2
    assert "keeps actor classes elsewhere: each trial runs in a process of its own" in caplog.text


def test_results_of_other_trainables_are_not_recorded(home: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        tune.report({"macro_f1": 1.0})

    with pytest.raises(StudyError, match=r"results must be of lungtune.tune.trainable"):
        record(fit(home, train, {}))
