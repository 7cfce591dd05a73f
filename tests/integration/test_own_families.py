"""A user's own families, all the way on files of their own: search on Ray, export, retraining, test set, MLflow."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import own_data
import pytest
from rich.console import Console

from lungtune import catalog
from lungtune.core import journal
from lungtune.data.manifest import Manifest
from lungtune.export import export
from lungtune.retrain import RetrainReport, retrain
from lungtune.search import driver
from lungtune.search.backends.ray_hosts import cluster

OWN = Path(__file__).parents[1] / "contract" / "own"
TRIALS = 3


@dataclass(frozen=True)
class Walk:
    """What a search, its export and the retraining of its recipe left behind."""

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
        found: dict[str, Any] = json.loads((self.study / "summary.json").read_text())
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        return list(journal.read(self.study / "journal.jsonl"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A user's home, and one local Ray for all searches, as starting it takes seconds."""
    home = tmp_path_factory.mktemp("home")
    furnish(home / "mlflow" / "state" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("LUNGTUNE_PATH", str(OWN))
        patch.setenv("LUNGTUNE_HOME", str(home))
        patch.setenv("LUNGTUNE_CACHE", str(home / "cache"))
        cluster.start()
        stop = cluster.stop
        patch.setattr(cluster, "start", lambda: None)
        patch.setattr(cluster, "stop", lambda: None)
        yield home
        stop()


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
