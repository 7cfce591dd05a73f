"""Export of a finished study to recipe files."""

from pathlib import Path

import pytest

from lungtune import catalog, reopen, summary
from lungtune.core import recipe
from lungtune.core.study import Study
from lungtune.data.manifest import Manifest
from lungtune.errors import SpaceError, StudyError
from lungtune.export import export
from tests.integration import retrain_study


@pytest.fixture
def home(tmp_path, monkeypatch):
    return retrain_study.copy(tmp_path / "home", monkeypatch.setenv)


def validation(home):
    return Manifest.load(home / "studies" / "mini" / "split.json").parts["validation"].group


def test_recipe_suffices_for_retraining(home):
    (path,) = export("mini")
    assert path == home / "recipes" / "mini-1.yaml"
    space, origin = reopen.load(path)
    history = Study.open("mini").history()
    best = history.ranked()[0]
    assert dict(space.fixed) == best.params
    assert not space.axes
    assert (space.seed, space.fidelity.max) == (best.seed, 1.5)
    assert origin.fidelity == best.best(history.objective).fidelity
    assert origin.score == best.value(history.objective)
    assert (origin.study, origin.study_id, origin.trial) == ("mini", history.study["id"], best.number)
    assert origin.split == history.study["data"]["hash"]
    assert origin.fingerprint == recipe.fingerprint(space, origin.fidelity, origin.split)
    block = space.provenance
    assert block["score"]["low"] <= block["score"]["value"] <= block["score"]["high"]
    assert block["corrected"]["level"] == 0.95
    summarised = summary.build(Study.open("mini"), validation(home))["best"]["corrected"]
    assert block["corrected"] == pytest.approx(summarised)
    assert block["versions"] == {"torch": "2"}


def test_recipe_has_comments(home):
    text = export("mini")[0].read_text()
    assert text.startswith("# Recipe: trial ")
    assert "95 % interval" in text.splitlines()[1]
    corrected = catalog.space(str(home / "recipes" / "mini-1.yaml")).provenance["corrected"]["value"]
    heading = " ".join(line.removeprefix("# ") for line in text.split("summary:")[0].splitlines())
    assert f"corrected for having been chosen on them: {corrected:.3f} (95 % interval" in heading
    assert "# peak learning rate" in text


def test_the_best_come_first_and_no_more_than_there_are(home, tmp_path):
    paths = export("mini", top=5, out=tmp_path / "mine")
    assert [path.name for path in paths] == ["mini-1.yaml", "mini-2.yaml"]
    scores = [reopen.load(path)[1].score for path in paths]
    assert scores == sorted(scores, reverse=True)
    assert not list((tmp_path / "mine").glob(".*"))
    assert ["corrected" in reopen.load(path)[0].provenance for path in paths] == [True, False]
    assert "corrected" not in paths[1].read_text(), "it is the score to expect of the first, not of the second"


def test_every_report_leaves_its_predictions(home):
    """Checkpoints are pruned; the small tables the corrected score needs are not."""
    study = Study.open("mini")
    history = study.history()
    task = summary.task_of(history)
    for trial in history.ranked():
        tables = summary.reported(study, trial, task)
        assert len(list(study.checkpoints(trial.number).glob("*.npy"))) == len(trial.reports) == len(tables)
        assert {table.dtype.name for table in tables} == {"float32"}
        best = summary.kept(study, trial.best(history.objective), task).probabilities
        assert any((table == best).all() for table in tables)


def test_lost_checkpoints_cost_the_interval_only(home):
    for path in home.glob("studies/mini/checkpoints/*/*"):
        path.write_bytes(b"torn")
    space, origin = reopen.load(export("mini")[0])
    assert space.provenance["score"]["low"] is None
    assert origin.score > 0
    assert "corrected" not in space.provenance


def test_mistyped_study_name_gets_a_suggestion(home):
    with pytest.raises(StudyError, match=r"no study 'minni'.*Did you mean 'mini'"):
        export("minni")


def test_study_without_finished_trial_suggests_resuming(home):
    journal = home / "studies" / "mini" / "journal.jsonl"
    journal.write_text(
        "\n".join(line for line in journal.read_text().splitlines() if '"event":"end"' not in line) + "\n"
    )
    with pytest.raises(StudyError, match=r"no finished trial with a score yet \(2 running\).*--resume --study mini"):
        export("mini")


def test_top_must_be_positive(home):
    with pytest.raises(StudyError, match="--top >= 1 must hold, but got 0"):
        export("mini", top=0)


def test_a_search_space_is_no_recipe(home):
    path = next(iter(catalog.spaces().values()))
    space = catalog.space(str(path))
    with pytest.raises(SpaceError, match="every parameter of a recipe must be one value, but these are ranges: lr"):
        recipe.provenance(space, path)


def test_script_error_is_one_sentence(home, door):
    done = door("export", "--study", "minni")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: there is no study 'minni'")
    assert "Traceback" not in done.err
    done = door("export", "--study", "mini", "--top", 3)
    assert done.code == 0
    first, _, output, following = done.out.splitlines()
    assert Path(first).is_file()
    assert output.startswith("2 written")
    assert following == f"next: lungtune retrain {first}"
