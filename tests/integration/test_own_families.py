"""A user's own families end to end on their own files: Ray search, export, retraining, test set, MLflow."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import own_data
from lungtune import catalog
from lungtune.core import journal
from lungtune.data.manifest import Manifest
from lungtune.export import export
from lungtune.retrain import RetrainReport, retrain
from lungtune.search import driver
from shared_ray import shared_ray

OWN = Path(__file__).parents[1] / "contract" / "own"
TRIALS = 3
LEARNT = {"volume_head": 0.6, "colour_full": 0.6, "image_text_lora": 0.7, "mask_only": 0.7, "multilabel_head": 0.7}
"""Validation score that a model exceeds if it has learnt."""


@dataclass(frozen=True)
class Walk:
    """Artefacts of a search, its export and the retraining of its recipe."""

    name: str
    home: Path
    code: int
    out: str
    recipe: Path
    retrained: RetrainReport

    @property
    def study(self) -> Path:
        return self.home / "studies" / self.name

    @property
    def summary(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.study / "summary.json").read_text())
        return content

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(journal.read(self.study / "journal.jsonl"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A user's home, and one local Ray for all searches.

    It is started before the user's folder is named, as a cluster that a search joins is.
    """
    home = tmp_path_factory.mktemp("home")
    with shared_ray(home, furnish) as patch:
        patch.setenv("LUNGTUNE_PATH", str(OWN))
        yield home


def search(name: str, source: str, study: str) -> tuple[int, str]:
    out = io.StringIO()
    options = driver.Options(space=name, data=source, trials=TRIALS, study=study, seed=3)
    return driver.run(options, Console(file=out, width=200)), out.getvalue()


@pytest.fixture(scope="module", params=own_data.WRITERS)
def walk(request: pytest.FixtureRequest, home: Path) -> Walk:
    """Each miniature in turn."""
    name = request.param
    data = home / "data" / name
    data.mkdir(parents=True)
    code, out = search(name, own_data.WRITERS[name](data), name)
    assert code == 0, out
    (recipe,) = export(name)
    return Walk(name, home, code, out, recipe, retrain(recipe, seeds=2, test=True))


def test_all_trials_of_an_own_family_end_scored(walk: Walk) -> None:
    trials = walk.summary["trials"]
    assert len(trials) == TRIALS
    assert {trial["state"] for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert all(trial["value"] is not None for trial in trials)


def test_journal_names_the_task_of_the_objective(walk: Walk) -> None:
    (begun,) = (event for event in walk.events if event["event"] == "study")
    task = catalog.family(walk.name).tasks[0]
    assert begun["space"]["objective"]["metric"] == f"{task.name}.{next(iter(task.metrics))}"
    assert any(event["event"] == "host" for event in walk.events)


def test_summary_names_the_best_trial_and_an_interval(walk: Walk) -> None:
    best, trials = walk.summary["best"], walk.summary["trials"]
    assert best["value"] == max(trial["value"] for trial in trials)
    assert best["value"] > LEARNT[walk.name]
    assert best["interval"]["low"] <= best["value"] <= best["interval"]["high"]
    assert f"best: trial {best['trial']}" in walk.out


def test_no_patient_of_a_table_is_in_two_parts(walk: Walk) -> None:
    parts = Manifest.load(walk.study / "split.json").parts
    patients = [set(part.group) for part in parts.values()]
    assert sum(map(len, parts.values())) == 2 * own_data.PATIENTS
    assert len(set.union(*patients)) == sum(map(len, patients)) == own_data.PATIENTS


def test_recipe_of_an_own_family_reproduces(walk: Walk) -> None:
    assert walk.retrained.reproduced == "yes"
    reproduction = walk.retrained.content["reproduction"]
    assert reproduction["retrained"] == pytest.approx(reproduction["searched"], abs=1e-3)
    runs = walk.retrained.content["runs"]
    assert [run["failure"] for run in runs] == [None, None]
    assert (walk.retrained.weights / "model.safetensors").is_file()


def test_test_set_is_scored_by_the_own_task(walk: Walk) -> None:
    task = catalog.family(walk.name).tasks[0]
    section = walk.retrained.content["test"]
    assert set(task.metrics) <= set(section["metrics"])
    assert all(section["metrics"][name]["value"] is not None for name in task.metrics)
    assert all(run["test"] is not None for run in walk.retrained.content["runs"])
    assert section["cases"] == len(Manifest.load(walk.study / "split.json").parts["test"])
    words = (walk.retrained.folder / "test_report.md").read_text()
    assert "## Test" in words
    assert f"`{Manifest.load(walk.study / 'split.json').source}`" in words


def test_black_lungs_are_a_control_of_volumes_with_masks(walk: Walk) -> None:
    """The other miniatures have no masks, or no classes."""
    section = walk.retrained.content["test"]
    control = section["baselines"].get("lungs blacked out", {"computed": False})
    assert control["computed"] == (walk.name == "volume_head"), control
    assert control.get("cases", section["cases"]) == section["cases"]


def test_mlflow_holds_each_trial_of_an_own_family(walk: Walk) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{walk.home}/mlflow/state/mlflow.db")
    (mine,) = (each for each in client.search_experiments() if walk.name in each.name)
    runs = client.search_runs([mine.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == walk.name and "mlflow.parentRunId" not in run.data.tags)
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(trials) == TRIALS
    metric = next(iter(catalog.family(walk.name).tasks[0].metrics))
    assert all(any(metric in name for name in run.data.metrics) for run in trials)


def test_score_falls_to_chance_with_shuffled_texts(home: Path) -> None:
    """The images are independent of the class, so the score comes from the texts."""
    data = home / "data" / "shuffled"
    data.mkdir()
    order = np.random.default_rng(5).permutation(own_data.PATIENTS)
    words = [*own_data.WORDS.values()]
    code, out = search("image_text_lora", own_data.reports(data, lambda n, _: words[order[n // 2] % 3]), "shuffled")
    assert code == 0, out
    summary = json.loads((home / "studies" / "shuffled" / "summary.json").read_text())
    assert summary["best"]["value"] < LEARNT["image_text_lora"]
