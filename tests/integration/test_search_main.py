"""The main workflow end to end (phantoms, tiny CLIP, Ctrl-C, resume, export, retrain), and user errors."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lungtune.core import journal
from lungtune.search.backend import Startup

ROOT = Path(__file__).parents[2]
PHANTOMS = "phantom,n=160,test=60"


def script(name, *words, home, **options):
    env = {**os.environ, "LUNGTUNE_HOME": str(home), "LUNGTUNE_CACHE": str(home / "cache"), "COLUMNS": "200"}
    env.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process, timeout=200):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search stopped by Ctrl-C after its first report, then resumed to its end."""
    home = tmp_path_factory.mktemp("home")
    words = ["--space", "clip_lora", "--data", PHANTOMS, "--profile", "demo", "--trials", "3", "--study", "main"]
    words += ["--set", "fidelity.max=0.9", "--set", "fidelity.min=0.3", "--seed", "3", "--set", "synthetic_ratio=0"]
    process = script("search", *words, home=home)
    first = ""
    for line in process.stdout:
        first += line
        if "passes  macro_f1" in line:
            process.send_signal(signal.SIGINT)
            break
    code, rest, err = finish(process)
    stopped = {"code": code, "out": first + rest, "err": err}
    before = journal.read(home / "studies" / "main" / "journal.jsonl")
    code, out, err = finish(script("search", "--resume", "--study", "main", home=home))
    return {"home": home, "stopped": stopped, "before": before, "code": code, "out": out, "err": err}


def test_first_ctrl_c_stops_cleanly_and_prints_resume(searched):
    stopped = searched["stopped"]
    assert stopped["code"] == 3, stopped["err"]
    assert "lungtune search --resume --study main" in stopped["out"]
    assert "Traceback" not in stopped["err"]


def test_the_plan_comes_before_the_first_trial(searched):
    out = searched["stopped"]["out"]
    assert out.index("rung 1") < re.search(r"^trial +\d+  ", out, re.MULTILINE).start()


def test_piped_search_repeats_no_line(searched):
    lines = [line for text in (searched["stopped"]["out"], searched["out"]) for line in text.splitlines()]
    trials = [line for line in lines if re.match(r"trial +\d+  ", line)]
    assert len(trials) == len(set(trials))
    for text in (searched["stopped"]["out"], searched["out"]):
        best = [line for line in text.splitlines() if re.match(r"best \d", line)]
        assert len(best) == len(set(best))


def test_search_reports_what_it_waits_for(searched):
    out = searched["stopped"]["out"]
    first = re.search(r"^trial +\d+  ", out, re.MULTILINE).start()
    assert 0 < out.index("starting a worker process for each device ...") < first


def test_resume_goes_on_with_the_same_trials_and_ends(searched):
    assert searched["code"] == 0, searched["err"]
    events = journal.read(searched["home"] / "studies" / "main" / "journal.jsonl")
    assert events[: len(searched["before"])] == searched["before"]
    trials = [event for event in events if event["event"] == "trial"]
    assert [event["trial"] for event in trials] == [0, 1, 2]
    ends = [event for event in events if event["event"] == "end"]
    assert sorted(event["trial"] for event in ends) == [0, 1, 2]


def test_summary_matches_its_documentation(searched):
    summary = json.loads((searched["home"] / "studies" / "main" / "summary.json").read_text())
    best, trials = summary["best"], summary["trials"]
    assert len(trials) == 3
    assert trials[0]["params"]["lr"] == 1e-4, "the source's own configuration is the first trial"
    assert trials[0]["state"] == "COMPLETE", "and is trained to the end"
    assert best["value"] == max(t["value"] for t in trials)
    assert best["interval"]["low"] <= best["value"] <= best["interval"]["high"]
    values = [r["metrics"]["macro_f1"] for t in trials for r in t["reports"]]
    assert best["value"] == max(values), "the best report, not the last"
    assert 0 <= summary["baselines"]["constant"]["accuracy"] <= 1
    assert summary["work"]["passes"] == pytest.approx(sum(t["passes"] for t in trials), abs=1e-3)


def test_result_text_names_best_gain_and_next_commands(searched):
    for words in ("best: trial", "95 % interval over patients", "gain", "constant-class baseline", "lungtune export"):
        assert words in searched["out"]


def test_mlflow_holds_one_run_per_trial_under_one_parent(searched):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{searched['home']}/mlflow/state/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert (len(runs), len(parents)) == (4, 1)
    assert all(
        run.data.tags.get("mlflow.parentRunId", parents[0].info.run_id) == parents[0].info.run_id for run in runs
    )


def test_recipe_retrains_to_its_searched_score(searched, monkeypatch, door):
    """In a process of its own, as the search's were."""
    home = searched["home"]
    monkeypatch.setenv("LUNGTUNE_HOME", str(home))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(home / "cache"))
    assert door("export", "--study", "main").code == 0
    code, out, err = finish(script("retrain", str(home / "recipes" / "main-1.yaml"), home=home))
    assert code == 0, err
    assert "reproduced: yes" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--space", "clip_lor"], "Did you mean 'clip_lora'?"),
        (["--spcae", "clip_lora"], "Did you mean '--space'?"),
        (["--space", "clip_lora", "--data", "folder:/no/such/folder"], "/no/such/folder"),
        (["--space", "clip_lora", "--data", "fodler:x"], "Did you mean 'folder'?"),
        (["--space", "clip_lora", "--data", "folder"], "needs a folder"),
        (["--space", "clip_lora", "--data", "phantom,m=3"], "'m' is not an option of the source 'phantom'"),
        (["--space", "clip_lora", "--data", "phantom,n=many"], "n must be a whole number, but got 'many'"),
        (["--space", "clip_lora", "--data", "phantom,official=maybe"], "official must be one of yes, no"),
        (["--space", "clip_lora", "--data", "phantom", "--bank", "/no/bank"], "/no/bank must be a bank"),
        (["--space", "clip_lora", "--set", "lr"], "--set takes KEY=VALUE"),
        (["--space", "clip_lora", "--set", "weights=/no/weights"], "/no/weights"),
        (["--space", "clip_lora", "--study", "a/b"], "--study must be letters"),
        (["--space", "clip_lora", "--budget", "5"], "90s, 30m, 2h or 1d"),
        (["--resume"], "--resume needs --study NAME"),
        (["--resume", "--study", "none"], "there is no study 'none'"),
    ],
)
def test_user_error_is_one_sentence_without_leftovers(tmp_path, monkeypatch, door, words, sentence):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path / "cache"))
    started = []
    monkeypatch.setattr(Startup, "begin", lambda self: started.append(True))
    done = door("search", *words)
    assert (done.code, started) == (2, [])
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert done.err.count("error:") == 1
    assert not list(tmp_path.glob("studies/*"))
