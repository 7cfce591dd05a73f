"""Searches on Ray Tune's controller: the same decisions as on the own loop, Tune's schedulers, losses, bad input."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lungtune import cli
from lungtune.core import journal, paths
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.export import export
from lungtune.retrain import retrain
from lungtune.search import backends, driver, tuner
from lungtune.search.backends.ray_hosts import cluster
from lungtune.search.controller import TrialController
from shared_ray import shared_ray
from tests.integration.tune_processes import gone, hosts_here

simulated = pytest.importorskip("simulated")

PHANTOMS = "phantom,n=100,test=30"
SHORT = "fidelity={max: 3, min: 1, eta: 3}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, furnish: Callable[[Path], str]) -> Iterator[Path]:
    """A home, and one local Ray with one host for all searches."""
    home = tmp_path_factory.mktemp("home")
    simulated_hosts = str(Path(__file__).parent)
    with shared_ray(home, furnish, HOME=str(home), PYTHONPATH=simulated_hosts) as patch:
        patch.setattr(cluster, "devices", lambda most: (1, False))
        yield home


def search(study: str, *settings: str, trials: int | None = 6, **options: Any) -> tuple[int, str]:
    """Search ``clip_head`` on few phantoms; return exit code and output."""
    out = io.StringIO()
    if not options.get("resume"):
        options = {"space": "clip_head", "data": PHANTOMS, "profile": "demo", "seed": 0} | options
        short = [] if any(each.startswith("fidelity=") for each in settings) else [SHORT]
        options["settings"] = cli.settings([*short, "batch_size=16", *settings])
    asked = driver.Options(study=study, trials=trials, **options)
    return driver.run(asked, Console(file=out, width=200)), out.getvalue()


def events(study: str, *kinds: str) -> list[dict[str, Any]]:
    read = journal.read(Study.open(study).journal_path)
    return [event for event in read if not kinds or event["event"] in kinds]


def decided(study: str) -> list[dict[str, Any]]:
    """Return the decisions of a search and the scores they were based on."""
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


def once(when: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Start a thread that acts once, as soon as a condition holds."""

    def watch() -> None:
        end = time.monotonic() + 120
        while not when() and time.monotonic() < end:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def count(study: str, kind: str) -> int:
    """Return how many events of a kind a study has so far."""
    path = paths.home() / "studies" / study / "journal.jsonl"
    return path.read_text().count(f'"event":"{kind}"') if path.exists() else 0


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


def test_a_resumed_study_keeps_its_engine(home: Path) -> None:
    """After the test above: a study with all its trials is reopened, and nothing is trained."""
    assert search("tune", trials=None, resume=True)[0] == 0
    assert search("tune", trials=None, resume=True, engine="hosts")[0] == 0
    assert search("hosts", trials=None, resume=True)[0] == 0
    assert [event["engine"] for event in events("tune", "open")] == ["tune", "tune", "hosts"]
    assert [event["engine"] for event in events("hosts", "open")] == ["hosts", "hosts"]


@pytest.mark.slow
def test_a_study_goes_on_with_the_other_engine(home: Path, tmp_path: Path) -> None:
    """Without training, on hosts, on Tune, and on hosts again."""
    space = simulated.space(8, faults=("none",), slots=2)
    study = simulated.begin(tmp_path / "changed", space)
    for engine, most in (("hosts", 6), ("tune", 14), ("hosts", 1000)):
        controller = TrialController(study, space, 0)

        def tick(controller: TrialController = controller, most: int = most) -> None:
            if len(controller.history.order) >= most:
                controller.request_stop("enough")

        tuner.run_trials(controller, simulated.backend(engine), tick)
    history = study.history()
    assert len(history.of(State.COMPLETE, State.PRUNED)) == len(history.trials) == 8
    levels = [[report.fidelity for report in trial.reports] for trial in history.trials.values()]
    assert all(each == list(simulated.FIDELITY.reports[: len(each)]) for each in levels)


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


@pytest.mark.slow
def test_synchronous_pbt_perturbs_paused_trials(home: Path) -> None:
    code, out = search("synch", "scheduler={name: pbt, quantile_fraction: 0.5, synch: true}", "slots=3", trials=4)
    assert code == 0, out
    ended_whole("synch", 4)
    assert len(events("synch", "perturb")) >= 2


@pytest.mark.slow
def test_pb2_perturbs_numbers_alone(home: Path) -> None:
    code, out = search("pb2", "scheduler={name: pb2, quantile_fraction: 0.5}", "slots=2", trials=4)
    assert code == 0, out
    ended_whole("pb2", 4)
    history = Study.open("pb2").history()
    assert events("pb2", "perturb")
    for event in events("pb2", "perturb"):
        donor = history.trials[event["donor"]].stretches
        assert any(event["params"]["class_weighting"] == s.lineage[-1].params["class_weighting"] for s in donor)


@pytest.mark.slow
def test_population_outlives_a_killed_host(home: Path) -> None:
    killer = once(lambda: count("killed", "report") >= 3, lambda: os.kill(hosts_here()[0], signal.SIGKILL))
    code, out = search("killed", "scheduler={name: pbt, quantile_fraction: 0.5}", "slots=2", trials=4)
    killer.join()
    assert code == 0, out
    assert events("killed", "lost")
    assert len(events("killed", "host")) == 2
    ended_whole("killed", 4)


@pytest.mark.slow
def test_ctrl_c_leaves_trials_to_resume(home: Path) -> None:
    stopped: list[float] = []

    def interrupt() -> None:
        stopped.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    watcher = once(lambda: count("cut", "report") >= 2, interrupt)
    words = ("scheduler={name: pbt, quantile_fraction: 0.5}", "slots=2", "fidelity={max: 9, min: 1, eta: 3}")
    code, out = search("cut", *words, trials=4, engine="tune")
    assert time.monotonic() - stopped[0] < 15
    watcher.join()
    assert code == 3
    assert "lungtune search --resume --study cut" in out
    assert not Study.open("cut").history().of(State.FAIL)
    assert gone()
    assert search("cut", trials=None, resume=True)[0] == 0
    ended_whole("cut", 4)


@pytest.mark.slow
def test_spent_budget_stops_the_population(home: Path) -> None:
    words = ("scheduler=pbt", "slots=2", "fidelity={max: 81, min: 1, eta: 3}")
    code, out = search("budget", *words, trials=40, budget=8.0)
    assert code == 3
    assert "time budget" in out
    assert not Study.open("budget").history().of(State.FAIL)


@pytest.mark.skipif(find_spec("hpbandster") is None, reason="hpbandster is not installed")
def test_bohb_fills_brackets(home: Path) -> None:
    code, out = search("bohb", "scheduler=bohb", "slots=3", trials=8)
    assert code == 0, out
    ended_whole("bohb", 8)


MISTAKES = {
    "hosts": (["--set", "scheduler=pbt", "--engine", "hosts"], "pbt is one of Ray Tune, which needs --engine tune"),
    "setting": (["--set", "scheduler={name: pbt, interval: 3}"], "Did you mean 'perturbation_interval'"),
    "several": (["--space", "clip_head,vit_b16_head", "--set", "scheduler=pbt"], "takes one space, but got 2"),
    "base": (["--set", "scheduler=pbt", "--set", "model=[tiny_a, tiny_b]"], "'model' is a setting of the base"),
    "engine": (["--engine", "ray"], "--engine must be hosts or tune, but got 'ray'"),
    "bohb": (["--set", "scheduler=bohb"], "needs the packages hpbandster and ConfigSpace"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_at_once(
    mistake: str, home: Path, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, sentence = MISTAKES[mistake]
    if mistake == "bohb" and find_spec("hpbandster"):
        pytest.skip("hpbandster is installed")
    monkeypatch.setattr(backends, "get", lambda name: pytest.fail("the backend was imported"))
    before = Study.names()
    space = [] if "--space" in words else ["--space", "clip_head"]
    left = door("search", *space, "--data", PHANTOMS, "--profile", "demo", *words)
    assert (left.code, left.err.count("\n")) == (2, 1), left.err
    assert sentence in left.err
    assert Study.names() == before
