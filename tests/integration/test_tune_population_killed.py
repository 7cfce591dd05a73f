"""``kill -9`` of the driver of a population (PBT), then resume: nothing lost or doubled, and the recipe replays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.core.paths import ROOT
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.export import export
from lungtune.retrain import retrain

SETTINGS = ("scheduler={name: pbt, quantile_fraction: 0.5}", "slots=2", "fidelity={max: 9, min: 1, eta: 3}")
TRIALS = 4


@pytest.mark.slow
def test_killed_population_resumes_whole_and_replays(
    tmp_path: Path, furnish: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path / "mlflow" / "state" / "mlflow.db")
    places = {"LUNGTUNE_HOME": str(tmp_path), "LUNGTUNE_CACHE": str(tmp_path / "cache")}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    door = [sys.executable, str(ROOT / "scripts" / "search.py")]
    words = ["--space", "clip_head", "--data", "phantom,n=100,test=30", "--profile", "demo", "--study", "pbt"]
    words += ["--trials", str(TRIALS), "--set", "batch_size=16", *(w for s in SETTINGS for w in ("--set", s))]
    path = tmp_path / "studies" / "pbt" / "journal.jsonl"
    command = [*door, *words]
    for perturbations in (1, 3):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, env=os.environ, stdout=log, stderr=log)
        end = time.monotonic() + 150
        while process.poll() is None and not perturbed(path, perturbations):
            assert time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        command = [*door, "--resume", "--study", "pbt"]
    assert not {e["event"] for e in journal.read(path)} & {"stop"}, "it was killed before its end"
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    history = Study.open("pbt").history()
    assert sorted(history.trials) == list(range(TRIALS))
    assert not history.of(State.RUNNING, State.PAUSED, State.FAIL)
    for trial in history.trials.values():
        levels = [(report.segment, report.fidelity) for report in trial.reports]
        assert len(levels) == len(set(levels)), "no report is doubled"
    best = next(trial for trial in history.ranked() if len(trial.lineage_at(trial.best(history.objective))) > 1)
    top = [trial.number for trial in history.ranked()].index(best.number) + 1
    assert retrain(export("pbt", top=top)[-1]).reproduced == "yes"


def perturbed(path: Path, times: int) -> bool:
    """True if the journal has so many perturbations."""
    return path.exists() and path.read_text().count('"event":"perturb"') >= times
