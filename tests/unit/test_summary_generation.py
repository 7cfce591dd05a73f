"""A study of generators (minimised score): summary, recipe scores, closing message, live line, MLflow runs."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from lungtune import catalog, export, summary
from lungtune.core.space import SPACE, together
from lungtune.core.study import Study
from lungtune.core.trial import Objective
from lungtune.data.manifest import Manifest
from lungtune.search.ui import live, result_text
from lungtune.tasks.generation import sample_metrics
from lungtune.tracking import charts, mlflow_views, run_markdown
from lungtune.tracking.projection import STUDY, Projection
from tests.unit.tasks.generation import generated

PATIENTS = np.arange(90) // 2
BASELINES = {"untrained": {"cmmd": 131.25, "coverage": 0.2}, "real": {"cmmd": 0.8, "coverage": 0.97}}
SHIFTS = (1.6, 0.4, 1.0)
"""Final offset of each trial's samples; trial 0 is the start, trial 1 the best."""


def spaces():
    space = replace(catalog.space("sd_lora", "demo"), objective=Objective("cmmd", "min", "generation"), trials=3)
    return space, together([space, replace(space, name="wide")])


def searched(folder, space):
    study = Study(folder)
    study.acquire()
    data = {"source": "phantom", "hash": "0" * 64, "classes": list(generated.CLASSES)}
    study.begin(space, data={**data, "counts": {"train": 100, "validation": 90}}, seed=0, about={})
    study.append("baselines", **BASELINES)
    for number, shift in enumerate(SHIFTS):
        params = {"lr": 1e-4, **({SPACE: space.members[number % 2].name} if space.members else {})}
        origin = "random" if number else "start"
        common = {"sampled": {}, "distributions": {}, "seed": number, "origin": origin}
        study.append("trial", trial=number, params=params, **common)
        study.append("start", trial=number, attempt=1, fidelity=0.0)
        study.checkpoints(number).mkdir(parents=True)
        for k, off in enumerate((shift + 1, shift)):
            samples = generated.samples_of(0, 90, 60, off, classes=3, noise=7)
            path = study.checkpoints(number) / f"{k:012d}.safetensors"
            np.save(path.with_suffix(".npy"), samples.table())
            save_file(samples.tensors(), path)
            scores = sample_metrics.scores(samples, generated.CLASSES) | {"copies": 0.01, "loss": 0.3}
            scores |= {"recognised": 0.5, "recognised_normal": 0.5}
            report = {"fidelity": k + 1.0, "samples": 100 * k, "checkpoint": str(path.relative_to(folder))}
            study.append("report", trial=number, metrics=scores, seconds=1.0, **report)
        study.append("end", trial=number, state="COMPLETE", reason="", message="", duplicate_of=None)
    study.checkpoints(1).joinpath("000000000001.png").write_bytes(b"\x89PNG sheet")
    study.release()
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("generators") / "mine", spaces()[0])


@pytest.fixture(scope="module")
def reported(study):
    summarised = summary.build(study, PATIENTS)
    assert json.loads(json.dumps(summarised)) == summarised
    return summarised


def test_best_has_the_least_distance_and_gains_are_positive(study, reported):
    best, start, history = reported["best"], reported["baselines"]["start"], study.history()
    assert (best["trial"], best["fidelity"], start["trial"]) == (1, 2.0, 0)
    assert best["value"] == min(r.metrics["cmmd"] for t in history.trials.values() for r in t.reports)
    assert best["interval"]["value"] == pytest.approx(best["value"], abs=1e-3)
    assert best["interval"]["low"] < best["value"] < best["interval"]["high"]
    assert best["gain_over_start"]["value"] == pytest.approx(start["value"] - best["value"], abs=1e-3)
    assert best["gain_over_start"]["low"] > 0
    assert best["gains"] == pytest.approx({"untrained": 131.25 - best["value"], "real": 0.8 - best["value"]})
    assert (best["gain_over_constant"], best["collapsed"]) == (None, "")
    assert reported["baselines"] == {"constant": {}, **BASELINES, "start": start}


def test_the_corrected_score_is_that_of_all_reports(study, reported):
    """The best one is far ahead of the others: the choice costs next to nothing."""
    tables = [summary.reported(study, trial, summary.task_of(study.history())) for trial in study.history().ranked()]
    assert [[table.shape for table in each] for each in tables] == [[(60, 8)] * 2] * 3
    best = reported["best"]
    assert best["corrected"]["value"] == pytest.approx(best["value"], abs=5)
    assert best["corrected"]["low"] < best["corrected"]["value"] < best["corrected"]["high"]


def test_two_spaces_are_ranked_by_the_least_distance(tmp_path):
    board = summary.build(searched(tmp_path / "two", spaces()[1]), PATIENTS)["leaderboard"]
    assert [(row["name"], row["trial"]) for row in board["rows"]] == [("wide", 1), ("sd_lora", 2)]
    assert board["rows"][1]["lead"]["value"] > 0


def test_a_recipe_has_the_interval_of_its_samples(study, reported, monkeypatch):
    about = {"parts": {"validation": SimpleNamespace(group=PATIENTS)}, "source": "phantom", "unit": "patients"}
    monkeypatch.setattr(Manifest, "load", lambda *path: SimpleNamespace(**about))
    history = study.history()
    kept = export.StudyPredictions(study, history)
    interval = kept.interval(history.trials[1])
    assert interval.to_dict() == pytest.approx({**reported["best"]["interval"], "value": reported["best"]["value"]})
    assert kept.corrected(history.ranked()).to_dict() == pytest.approx(reported["best"]["corrected"])


def test_closing_text_names_the_references(study, reported):
    console = Console(file=io.StringIO(), width=200)
    space = spaces()[0]
    family = catalog.family(space.family)
    defaults = {name: getattr(family.Params(), name) for name in space.axes}
    reported = {**reported, "best": {**reported["best"], "params": {**space.fixed, **defaults}}}
    result_text.show(study, space, reported, console, 1.0)
    words = console.file.getvalue()
    assert "  untrained base 131.2; real images 0.8\n" in words
    assert "constant-class" not in words
    assert "source configuration (trial 0)" in words
    assert "; gain +" in words
    assert "lungtune synthesize" in words
    assert "after the correction: beyond chance" in words


def test_live_line_and_notes_name_the_references(study):
    history = study.history()
    view = live.View(Console(file=io.StringIO(), width=200), history, spaces()[0])
    best = min(trial.value(history.objective) for trial in history.trials.values())
    assert f"best {best:.4f} (trial 1)" in view._headline()
    assert view._headline().endswith("untrained base 131.2500 · real images 0.8000")
    note = run_markdown.study(history, {})
    assert note.startswith(f"**best cmmd {best:.4f}** (trial 001)")
    assert "| untrained base | 131.2500 | |" in note.replace("  |", " |")
    assert "class" not in note


def test_mlflow_gets_the_least_distance_as_the_best(study):
    projection = Projection()
    for line in study.journal_path.read_text().splitlines():
        projection.feed(json.loads(line))
    points = {(run.key, p.key): p.value for run in projection.runs.values() for p in run.points if "best_" in p.key}
    ends = {number: trial.value(projection.history.objective) for number, trial in projection.history.trials.items()}
    assert {key: points[key, "best_cmmd"] for key in ("0", "1", "2")} == pytest.approx(
        {str(number): value for number, value in ends.items()}, abs=1e-3
    )
    assert points[STUDY, "best_cmmd"] == pytest.approx(min(ends.values()), abs=1e-3)
    assert ("1", "best_copies") in points
    assert ("1", "best_recognised") in points
    assert not any(key.startswith(("best_cmmd_", "best_recognised_")) for _, key in points)
    assert projection.runs[STUDY].tags["best_trial"] == "1"
    assert any(p.key == "baseline_untrained_cmmd" for p in projection.runs[STUDY].points)
    state = json.loads(mlflow_views.tag(projection.history)[1])
    assert state["orderByAsc"]
    assert "metrics.`best_coverage`" in state["selectedColumns"]
    assert {"cmmd_normal", "cmmd_viral"} <= {chart.get("metricKey") for chart in state["compareRunCharts"]}


def test_figure_of_a_generator_is_its_contact_sheet(study):
    history = study.history()
    figures = {number: dict(charts.figures(study.folder, history, history.trials[number])) for number in (0, 1)}
    assert figures == {0: {}, 1: {"figures/samples.png": b"\x89PNG sheet"}}


def test_figures_are_delivered_once(study):
    projection = Projection()
    for line in study.journal_path.read_text().splitlines():
        projection.feed(json.loads(line))
    sent = {key: SimpleNamespace(files={}) for key in projection.runs}
    names = []

    def put(key, name, content, version=None):
        names.append((key, name))
        sent[key].files[name] = version
        return True

    for _ in range(2):
        assert charts.deliver(study.folder, projection, SimpleNamespace(sent=sent, put_file=put))
    assert names.count(("1", "figures/samples.png")) == 1
    assert names.count((STUDY, "plots.html")) == 1


def test_lost_checkpoints_leave_the_value(tmp_path):
    study = searched(tmp_path / "lost", spaces()[0])
    for path in study.folder.glob("checkpoints/*/*"):
        path.unlink()
    best = summary.build(study, PATIENTS)["best"]
    assert (best["trial"], best["interval"], best["corrected"], best["gain_over_start"]) == (1, None, None, None)
    assert best["gains"]["untrained"] > 0


def test_study_of_a_family_that_is_gone_has_plain_charts(study):
    history = study.history()
    history.study["space"]["family"] = "gone"
    assert "best_cmmd" in mlflow_views.tag(history)[1]
    assert dict(charts.figures(study.folder, history, history.trials[1])) == {}
