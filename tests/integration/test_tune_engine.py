"""Searches on Ray Tune's controller: the same decisions as on the own loop, Tune's schedulers, losses, bad input."""

from __future__ import annotations

import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lungtune import cli
from lungtune.core import journal
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.export import export
from lungtune.retrain import retrain
from lungtune.search import driver
from lungtune.search.backends.ray_hosts import cluster

PHANTOMS = "phantom,n=100,test=30"
SHORT = "fidelity={max: 3, min: 1, eta: 3}"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A home, and one local Ray with one host for all searches."""
    home = tmp_path_factory.mktemp("home")
    furnish(home / "mlflow" / "state" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "LUNGTUNE_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("LUNGTUNE_HOME", str(home))
        patch.setenv("LUNGTUNE_CACHE", str(home / "cache"))
        patch.setenv("HOME", str(home))
        cluster.start()
        stop = cluster.stop
        patch.setattr(cluster, "start", lambda: None)
        patch.setattr(cluster, "stop", lambda: None)
        patch.setattr(cluster, "devices", lambda: (1, False))
        yield home
        stop()


def search(study: str, *settings: str, trials: int | None = 6, **options: Any) -> tuple[int, str]:
    """Search ``clip_head`` on few phantoms; return exit code and output."""
    out = io.StringIO()
    if not options.get("resume"):
        options = {"space": "clip_head", "data": PHANTOMS, "profile": "demo", "seed": 0} | options
        options["settings"] = cli.settings([SHORT, "batch_size=16", *settings])
    asked = driver.Options(study=study, trials=trials, **options)
    return driver.run(asked, Console(file=out, width=200)), out.getvalue()


def events(study: str, *kinds: str) -> list[dict[str, Any]]:
    read = journal.read(Study.open(study).journal_path)
    return [event for event in read if not kinds or event["event"] in kinds]


def decided(study: str) -> list[dict[str, Any]]:
    """What a search decided, and the scores it decided on."""
    kept = ("event", "trial", "params", "seed", "origin", "fidelity", "state", "reason", "samples", "checkpoint")
    rows = events(study, "trial", "start", "report", "pause", "end")
    scores = [row.get("metrics", {}) for row in rows]
    named = [{name: row[name] for name in kept if name in row} for row in rows]
    return [row | {name: s[name] for name in ("macro_f1", "nll") if name in s} for row, s in zip(named, scores)]


def ended_whole(study: str, trials: int) -> None:
    """Each trial has ended COMPLETE or PRUNED."""
    history = Study.open(study).history()
    states = Counter(trial.state for trial in history.trials.values())
    assert sum(states[state] for state in (State.COMPLETE, State.PRUNED)) == trials, states
    assert states[State.COMPLETE]


def kill_a_host(when: Callable[[], bool]) -> Callable[[], None]:
    """Return a ``tick`` that kills the only host's process once."""
    from ray.util.state import list_actors  # noqa: F401  # imported before the search

    killed: list[int] = []

    def tick() -> None:
        if not killed and when():
            pids = host_pids()
            if pids:
                killed.extend(pids)
                os.kill(pids[0], signal.SIGKILL)

    tick.killed = killed  # type: ignore[attr-defined]
    return tick


def host_pids() -> list[int]:
    """Return the processes of this user's hosts."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if name.startswith(b"ray::") and b"TuneHost" in name and child_of_ours(int(entry.name)):
            found.append(int(entry.name))
    return found


def child_of_ours(pid: int) -> bool:
    """True if a process descends from this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False
    return False


def test_asha_decides_alike_on_both_engines(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for engine in ("hosts", "tune"):
        capfd.readouterr()
        code, out = search(engine, "slots=1", engine=engine)
        assert code == 0, out
    left = capfd.readouterr()
    assert "ray" not in (left.out + left.err).replace("rays", "").lower()
    assert len(decided("tune")) > 15
    assert decided("tune") == decided("hosts")
    assert [event["engine"] for event in events("tune", "open")] == ["tune"]
    assert not (home / "ray_results").exists()
    opened = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if "driver_artifacts" in path], "files of paused trials stay open"


def test_a_study_changes_its_engine_and_back(home: Path) -> None:
    assert search("change", trials=3, engine="hosts")[0] == 0
    assert search("change", trials=5, resume=True, engine="tune")[0] == 0
    assert search("change", trials=6, resume=True)[0] == 0
    assert search("change", trials=7, resume=True, engine="hosts")[0] == 0
    assert [event["engine"] for event in events("change", "open")] == ["hosts", "tune", "tune", "hosts"]
    ended_whole("change", 7)


def test_hyperband_halves_its_brackets(home: Path) -> None:
    code, out = search("band", "scheduler=hyperband", "slots=3", trials=8)
    assert code == 0, out
    ended_whole("band", 8)
    assert events("band", "pause")
    assert {event["reason"] for event in events("band", "end")} == {"", "hyperband"}


@pytest.fixture(scope="module")
def population(home: Path) -> str:
    code, out = search("pbt", "scheduler={name: pbt, quantile_fraction: 0.5}", "slots=2", trials=4)
    assert code == 0, out
    return "pbt"


def test_pbt_journals_its_perturbations(population: str) -> None:
    ended_whole(population, 4)
    perturbed = events(population, "perturb")
    assert perturbed
    assert all(event["trial"] != event["donor"] for event in perturbed)
    assert all(event["params"]["hidden"] in (0, 64, 256) for event in perturbed)


def test_recipe_of_a_perturbed_trial_reproduces(population: str) -> None:
    history = Study.open(population).history()
    best = next(trial for trial in history.ranked() if len(trial.lineage_at(trial.best(history.objective))) > 1)
    top = [trial.number for trial in history.ranked()].index(best.number) + 1
    recipe = export(population, top=top)[-1]
    assert "segments:" in recipe.read_text()
    done = retrain(recipe)
    assert done.reproduced == "yes"
    assert done.content["runs"][0]["value"] == pytest.approx(best.value(history.objective), abs=1e-4)


def test_synchronous_pbt_perturbs_paused_trials(home: Path) -> None:
    code, out = search("synch", "scheduler={name: pbt, quantile_fraction: 0.5, synch: true}", "slots=3", trials=4)
    assert code == 0, out
    ended_whole("synch", 4)
    assert len(events("synch", "perturb")) >= 2


def test_pb2_perturbs_numbers_alone(home: Path) -> None:
    code, out = search("pb2", "scheduler={name: pb2, quantile_fraction: 0.5}", "slots=2", trials=4)
    assert code == 0, out
    ended_whole("pb2", 4)
    history = Study.open("pb2").history()
    assert events("pb2", "perturb")
    for event in events("pb2", "perturb"):
        donor = history.trials[event["donor"]].stretches
        assert any(event["params"]["class_weighting"] == s.lineage[-1].params["class_weighting"] for s in donor)
