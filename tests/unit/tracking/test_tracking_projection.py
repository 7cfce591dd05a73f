"""Projection of journal events to MLflow: pure, repeatable, within MLflow's limits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtune import optuna_study
from lungtune.core.trial import History
from lungtune.tasks.classification.figures import confusion_png, roc_png
from lungtune.tracking import charts, limits, location, mlflow_views, run_markdown
from lungtune.tracking.projection import STUDY, Projection, data_name
from lungtune.tracking.tail import Tail
from tests.integration import tracking_study


def events(trials=16, **kwargs):
    return [
        {"event": kind, "time": 1000.0 + i, **f} for i, (kind, f) in enumerate(tracking_study.script(trials, **kwargs))
    ]


def project(stream):
    projection = Projection()
    for event in stream:
        projection.feed(event)
    return projection


def test_every_event_is_counted_once():
    stream = events()
    projection = project(stream)
    assert sum(run.events for run in projection.runs.values()) == len(stream)
    assert projection.ignored == 0


def test_the_same_journal_gives_the_same_runs():
    assert project(events()).runs == project(events()).runs


def test_points_carry_the_reports_own_time_and_samples():
    stream = events()
    report = next(e for e in stream if e["event"] == "report")
    point = next(p for p in project(stream).runs["0"].points if p.key == "macro_f1")
    assert point == ("macro_f1", report["metrics"]["macro_f1"], round(report["time"] * 1000), report["samples"])


def test_a_trial_paused_at_a_rung_is_a_running_run_until_it_ends():
    stream = events(2)
    index = max(i for i, e in enumerate(stream) if e["event"] == "report" and e["trial"] == 1)
    pause = {"event": "pause", "time": 2000.0, "trial": 1, "fidelity": stream[index]["fidelity"]}
    paused = [*stream[: index + 1], pause]
    seen = []
    for event in ("stop", "open"):
        seen.append(project(paused).runs["1"])
        paused.append({"event": event, "time": 2001.0, "pid": 1, "host": "h", "why": "SIGTERM"})
    seen.append(project(paused).runs["1"])
    start = {"event": "start", "time": 2003.0, "trial": 1, "attempt": 1, "fidelity": 1.0}
    seen += [project([*paused, start]).runs["1"], project([*paused, start, *stream[index + 1 :]]).runs["1"]]
    states = [(run.status, run.tags["state"]) for run in seen]
    waits = ("RUNNING", "PAUSED")
    assert states == [waits, ("SCHEDULED", "PAUSED"), waits, ("RUNNING", "RUNNING"), ("FINISHED", "COMPLETE")]


def test_a_report_repeated_after_a_crash_adds_nothing():
    stream = events(1)
    index = next(i for i, e in enumerate(stream) if e["event"] == "report")
    again = {**stream[index], "time": 5000.0}
    once, twice = project(stream), project([*stream[: index + 1], again, *stream[index + 1 :]])
    assert once.runs["0"].points == twice.runs["0"].points


def test_a_perturbation_is_a_tag_and_parameters_stay():
    """MLflow's parameters can't change: the later ones are tags; reports at an earlier step are drawn all the same."""
    stream = events(2)
    end = next(i for i, e in enumerate(stream) if e["event"] == "end" and e["trial"] == 1)
    reports = [e for e in stream[:end] if e["event"] == "report" and e["trial"] == 1]
    begin = next(e for e in stream if e["event"] == "trial" and e["trial"] == 1)
    name = next(key for key, value in begin["params"].items() if isinstance(value, float))
    perturb = {
        "event": "perturb", "time": 3000.0, "trial": 1, "donor": 0, "donor_fidelity": 0.5,
        "fidelity": reports[-1]["fidelity"], "params": {**begin["params"], name: 0.125}, "checkpoint": None,
    }  # fmt: skip
    again = {**reports[0], "time": 4000.0, "metrics": {**reports[0]["metrics"], "macro_f1": 0.999}}
    before, after = project(stream[:end]), project([*stream[:end], perturb, again, stream[end]])
    run = after.runs["1"]
    assert after.ignored == 0
    assert run.params == before.runs["1"].params
    assert run.tags["perturbations"] == "1"
    assert run.tags[f"param.{name}"] == "0.125"
    assert run.tags["perturb.1"].endswith(f"from trial 000 at 0.5: {name}=0.125")
    drawn = [p for p in run.points if p.key == "macro_f1" and p.step == again["samples"]]
    assert [p.value for p in drawn][1:] == [0.999]
    assert [(p.value, p.step) for p in run.points if p.key == "perturbation"] == [(1.0, reports[-1]["samples"])]
    assert sum(run.events for run in after.runs.values()) == end + 3


def test_a_metric_that_is_not_finite_is_named_not_drawn():
    stream = events(1)
    report = next(e for e in stream if e["event"] == "report")
    report["metrics"] = {**report["metrics"], "ece": "nan", "nll": math.inf, "note": "text", "flag": True}
    run = project(stream).runs["0"]
    first = {p.key for p in run.points if p.step == report["samples"]}
    assert not first & {"ece", "nll", "note", "flag"}
    assert run.tags["nonfinite"] == f"nll, ece at {report['samples']} samples"


def test_best_metrics_appear_once_for_scored_trials_only():
    runs = project(events()).runs
    for key, run in runs.items():
        best = [p for p in run.points if p.key == "best_macro_f1"]
        assert len(best) == {"5": 0}.get(key, 1) or key == STUDY
    assert not any(p.key.startswith(("best_recall", "best_loss", "best_samples")) for p in runs["0"].points)


@pytest.mark.parametrize(
    "bad",
    [
        {"event": "report", "time": 1, "trial": 99, "metrics": {}, "fidelity": 1, "samples": 1, "checkpoint": None},
        {"event": "end", "time": 1, "trial": 0, "state": "ODD"},
        {"event": "trial", "time": 1, "trial": 0},
        {"event": "report", "time": 1},
        {"event": "study", "time": 1, "id": "other"},
    ],
)
def test_inconsistent_event_is_skipped(bad):
    stream = events(2)
    projection = project([*stream[:8], bad, *stream[8:]])
    assert projection.ignored == 1
    assert projection.runs == project(stream).runs


def test_events_before_the_study_are_skipped():
    projection = project(events(2)[1:])
    assert not projection.ready
    assert projection.runs == {}


def test_the_experiment_is_the_family_on_the_data():
    assert project(events(1)).experiment == "clip_lora on chest_xray"
    assert data_name({"source": "folder:/home/me/my images/"}) == "folder:my images"
    assert data_name({"source": "phantom"}) == "phantom"
    assert data_name({}) == "data"


@given(st.text())
def test_any_text_becomes_a_valid_mlflow_name(text):
    import posixpath
    import re

    name = limits.name(text)
    assert re.fullmatch(r"[/\w.\- :]+", name)
    assert len(name) <= 250
    assert posixpath.normpath(name) == name
    assert not name.startswith(("/", ".."))
    assert name != "."


def test_names_that_become_equal_stay_apart():
    assert limits.metrics({"recall@0.9": 0.5, "recall_0.9": 0.6})[0] == {"recall_0.9": 0.5, "recall_0.9_2": 0.6}
    assert limits.metrics({"recall": {"viral": 0.5}})[0] == {"recall/viral": 0.5}


def test_lengths_stay_within_the_limits():
    assert len(limits.params({"p" * 999: "x" * 9000})["p" * 250]) == 6000
    assert len(limits.tags({"t": "x" * 9000})["t"]) == 8000
    assert limits.tags({"empty": "", "none": None}) == {}
    stream = events()
    stream[0]["space"]["text"] = "x" * 20_000
    stream[-2]["best"] = "y" * 20_000
    runs = project(stream).runs.values()
    assert all(len(value) <= 8000 for run in runs for value in run.tags.values())
    assert all(len(value) <= 6000 for run in runs for value in run.params.values())


def test_saved_view_of_a_wide_space_fits_in_a_tag():
    kind, study = tracking_study.head()
    study["space"]["axes"] = {f"parameter_{i:04d}": "{}" for i in range(3000)}
    name, value = mlflow_views.tag(History([{"event": kind, "time": 1, **study}]))
    assert name == "mlflow.sharedViewState.clip_lora-1-55555555"
    assert len(value) <= 20_000
    assert json.loads(value)["orderByKey"] == "metrics.`best_macro_f1`"


def test_ranges_are_abbreviated():
    axes = {key: run_markdown.axis(text) for key, text in tracking_study.head()[1]["space"]["axes"].items()}
    assert axes["lr"] == "0.0005 .. 0.02 log"
    assert axes["lora_rank"] == "4 | 8 | 16 | 32"
    assert run_markdown.axis("not json") == "not json"


def test_charts_compare_trials_at_a_common_fidelity():
    history = project(events()).history
    level = charts.common_fidelity(history)
    study = optuna_study.for_charts(history, level)
    compared = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(compared) >= 2 / 3 * len(history.ranked()) - 1
    for trial in compared:
        assert max(trial.intermediate_values) >= level * tracking_study.CASES
        assert trial.params == history.trials[trial.number].sampled


@pytest.mark.parametrize("trials", [1, 2, 3])
def test_a_page_of_charts_from_few_trials(trials):
    page = charts.page(project(events(trials)).history)
    assert page.count("plotly.js v") == (1 if trials else 0)


def test_the_tail_reads_whole_lines_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_bytes(b'{"event":"a"}\n{"event":"b"')
    assert tail.read() == [{"event": "a"}]
    with open(path, "ab") as file:
        file.write(b'}\nnot json\n[1]\n\n{"event":"c"}\n')
    assert tail.behind() == 5
    assert tail.read() == [{"event": "b"}, {"event": "c"}]
    assert (tail.lines, tail.behind()) == (6, 0)


def test_store_location_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    uri = location.tracking_uri()
    assert uri == f"sqlite:///{tmp_path}/mlflow/state/mlflow.db"
    assert location.artifact_location(uri) == f"file://{tmp_path}/mlflow/state/artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there:5000")
    assert location.tracking_uri() == "http://there:5000"
    assert location.artifact_location("http://there:5000") is None
    assert location.without_password("postgresql://me:secret@db/x") == "postgresql://***@db/x"


def test_figures_are_png_files():
    labels = np.array([0, 1, 2, 0, 1, 2])
    probabilities = np.eye(3)[labels] * 0.7 + 0.1
    for draw in (confusion_png, roc_png):
        assert draw(labels, probabilities, tracking_study.CLASSES, "title").startswith(b"\x89PNG")
        assert draw(labels[:0], probabilities[:0], tracking_study.CLASSES).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"probabilities must be \(N, C\)"):
        roc_png(labels, probabilities[:, :2], tracking_study.CLASSES)
    with pytest.raises(ValueError, match="must be finite"):
        roc_png(labels, probabilities * np.nan, tracking_study.CLASSES)
    with pytest.raises(ValueError, match=r"labels must lie in 0 \.\. 2"):
        confusion_png(labels + 1, probabilities, tracking_study.CLASSES)
