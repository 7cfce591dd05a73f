"""Recipes of trials that took other trials' weights: exported as segments, retrained to the searched score."""

import dataclasses
import shutil

import pytest

from lungtune import catalog, reopen, summary
from lungtune.core import recipe as recipes
from lungtune.core.study import Study
from lungtune.core.trial import Trial
from lungtune.data.manifest import Manifest
from lungtune.engine import report_files
from lungtune.engine.pack import Pack
from lungtune.errors import CheckpointError, SpaceError
from lungtune.export import export
from lungtune.retrain import retrain
from tests.integration import retrain_study


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A home with the study ``pbt``, that no test may change."""
    home = tmp_path_factory.mktemp("pbt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUNGTUNE_HOME", str(home))
        patch.setenv("LUNGTUNE_CACHE", str(home / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        retrain_study.perturb("pbt", home / "tiny")
    return home


@pytest.fixture
def home(searched, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    monkeypatch.setenv("LUNGTUNE_CACHE", str(searched / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(searched / "studies", tmp_path / "studies")
    return tmp_path


def perturbed():
    return Study.open("pbt").history().trials[1]


def exported(at=-1):
    """Export the perturbed trial as if that report were its best; return the recipe and the report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "best", lambda trial, *_, **__: trial.reports[at if trial.number == 1 else -1])
        path = next(path for path in export("pbt", top=2) if reopen.load(path)[1].trial == 1)
    return path, perturbed().reports[at]


@pytest.fixture
def recipe(home):
    return exported()[0]


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    return path


def steps(monkeypatch):
    """Record how many trials each step trains."""
    step, counted = Pack.step, []

    def watched(pack, slots=None):
        counted.append(len(slots))
        return step(pack, slots)

    monkeypatch.setattr(Pack, "step", watched)
    return counted


def test_the_journal_has_the_lineage(home):
    trial = perturbed()
    assert [report.segment for report in trial.reports] == [0, 1, 2]
    assert [(s.params["lr"], s.seed, s.until) for s in trial.lineage] == [
        (1e-3, 3, 0.5), (4e-3, 4, 1.0), (2e-3, 4, None)
    ]  # fmt: skip
    study = Study.open("pbt")
    assert study.history().work == pytest.approx(0.5 + 1.5)
    folders = [(study.folder / report.checkpoint).parent for report in trial.reports]
    assert folders == [study.checkpoints(1, segment) for segment in range(3)]
    assert all(summary.kept(study, report, summary.task_of(study.history())) for report in trial.reports)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_retraining_replays_the_segments(home, at):
    """Whichever report is exported: its segments, and no later ones, reproduce its score."""
    path, report = exported(at)
    space, _ = reopen.load(path)
    *before, last = perturbed().lineage_at(report)
    assert [(s.params["lr"], s.seed, s.until) for s in space.segments] == [
        (s.params["lr"], s.seed, s.until) for s in before
    ]
    assert (space.fixed["lr"], space.seed) == (last.params["lr"], last.seed)
    assert ("segments" in path.read_text()) == (at > 0)
    done = retrain(path)
    (run,) = done.content["runs"]
    assert done.reproduced == "yes"
    assert run["value"] == pytest.approx(report.metrics["macro_f1"], abs=1e-6)
    assert run["metrics"]["nll"] == pytest.approx(report.metrics["nll"], abs=1e-6)


def test_a_recipe_shows_its_schedule(recipe):
    lines = recipe.read_text().splitlines()
    start = lines.index("segments:")
    assert lines[start - 2].startswith("# trained first, one after another")
    assert lines[start + 1].startswith("- {params: {batch_size: 8, lora_dropout: 0.1, lr: 0.001}, seed: 3, until: 0.5}")
    assert lines[start + 1].endswith("# passes 0 to 0.5")
    assert (
        lines[start + 2] == "- {params: {lr: 0.004}, seed: 4, until: 1.0}  # passes 0.5 to 1"
        or "0.004" in lines[start + 2]
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [("lr: 0.004", "lr: 0.005"), ("seed: 3, until", "seed: 5, until"), ("until: 0.5", "until: 0.7")],
)
def test_segments_are_in_the_fingerprint(recipe, before, after):
    space, origin = reopen.load(recipe)
    mark = recipes.fingerprint(space, origin.fidelity, origin.split)
    assert mark == origin.fingerprint
    changed = dataclasses.replace(space, segments=catalog.space(str(edit(recipe, before, after))).segments)
    assert recipes.fingerprint(changed, origin.fidelity, origin.split) != mark
    assert recipes.fingerprint(dataclasses.replace(space, segments=()), origin.fidelity, origin.split) != mark


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("lr: 0.004", "lora_rank: 2", "lora_rank must be the same in all"),
        ("lr: 0.004", "learning_rate: 2", "segments: 'learning_rate' is not a parameter.*Did you mean 'lr'"),
        ("lr: 0.004", "lr: 4", "lr <= 1 must hold"),
        ("until: 1.0", "until: 0.5", "until must be a number of passes > 0.5"),
        ("until: 1.0", "until: 0.7", "until must be one of the recipe's reports before 1.5"),
        ("until: 1.0", "until: 1.5", "until must be one of the recipe's reports before 1.5"),
        ("seed: 3, until", "seed: x, until", "seed must be a whole number from 0 to 2\\^32 - 1, but got 'x'"),
        ("seed: 3, until", "sed: 3, until", "'sed' is not a key of a segment"),
    ],
)
def test_a_mistake_in_segments_is_named(recipe, before, after, message):
    with pytest.raises(SpaceError, match=message):
        reopen.load(edit(recipe, before, after))


def test_segments_and_ranges_exclude_each_other(recipe):
    edit(recipe, "lr: 0.002", "lr: {low: 0.001, high: 0.01}")
    with pytest.raises(SpaceError, match=r"segments are of a recipe.*these are ranges: lr"):
        reopen.load(recipe)


def test_a_recipe_with_segments_is_not_searched(recipe, door):
    left = door("search", "--space", recipe)
    assert left.code == 2
    assert "lungtune retrain" in left.err


def test_other_seeds_shift_every_segment(home, recipe, monkeypatch):
    alone = retrain(recipe)
    together = steps(monkeypatch)
    started = []
    start = report_files.inherit
    monkeypatch.setattr(report_files, "inherit", lambda path, folder: started.append(folder) or start(path, folder))
    three = retrain(recipe, seeds=3, out=home / "three")
    assert max(together) == 3
    assert len(started) == 6
    values = [run["value"] for run in three.content["runs"]]
    assert [run["seed"] for run in three.content["runs"]] == [4, 5, 6]
    assert values[0] == pytest.approx(alone.content["runs"][0]["value"], abs=1e-6)
    edit(recipe, "seed: 3, until", "seed: 4, until")
    edit(recipe, "seed: 4, until: 1.0", "seed: 5, until: 1.0")
    edit(recipe, "\nseed: 4", "\nseed: 5")
    (shifted,) = retrain(recipe, out=home / "shifted").content["runs"]
    second = three.content["runs"][1]
    assert shifted["metrics"]["nll"] == pytest.approx(second["metrics"]["nll"], abs=1e-6)


def test_an_interrupted_retraining_goes_on_in_its_segment(home, recipe, monkeypatch):
    counted = steps(monkeypatch)
    whole, total = retrain(recipe, out=home / "whole"), len(counted)
    inherit, seen = report_files.inherit, []

    def once(path, folder):
        result = inherit(path, folder)
        seen.append(folder.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(report_files, "inherit", once)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        retrain(recipe, out=home / "cut")
    counted = steps(monkeypatch)
    again = retrain(recipe, out=home / "cut")
    assert len(seen) == 2  # nothing was begun anew
    assert 0 < len(counted) < total / 2
    for name in ("macro_f1", "nll"):
        (one,), (two,) = (done.content["runs"] for done in (whole, again))
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], abs=1e-6)


def test_a_compared_value_holds_in_every_segment(home, recipe, monkeypatch):
    joined, join = [], Pack.join

    def watched(pack, params, **options):
        joined.append((params.lr, params.batch_size))
        return join(pack, params, **options)

    monkeypatch.setattr(Pack, "join", watched)
    done = retrain(recipe, compare="lr=0.01,0.002")
    assert [lr for lr, _ in joined[:3]] == [0.001, 0.004, 0.002]
    assert [pair for pair in joined[3:] if pair[0] != 0.002] == [(0.01, 8), (0.01, 12), (0.01, 12)]
    assert any("lr 0.001, then 0.004, then 0.002" in note for note in done.content["effect"]["notes"])
    assert done.reproduced == "yes"


def test_a_folder_that_lost_what_it_inherited_is_refused(home, tmp_path):
    report = perturbed().reports[0]
    copy = report_files.inherit(Study.open("pbt").folder / report.checkpoint, tmp_path / "next")
    path, state, meta = report_files.latest(tmp_path / "next")
    assert (path, meta["fidelity"], meta["best"][1]) == (copy, 0.5, "")
    assert "progress" in state
    copy.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="must hold a whole checkpoint"):
        report_files.latest(tmp_path / "next")


def test_an_inherited_checkpoint_replaces_stale_ones(home, tmp_path):
    """A kill between a copy and its event leaves a later checkpoint in the folder of the next copy."""
    study = Study.open("pbt")
    first, _, last = perturbed().reports
    report_files.inherit(study.folder / last.checkpoint, tmp_path / "next")
    copy = report_files.inherit(study.folder / first.checkpoint, tmp_path / "next")
    path, _, meta = report_files.latest(tmp_path / "next")
    assert (path, meta["fidelity"]) == (copy, 0.5)


def test_results_have_the_parameters_of_the_best_report(home):
    history = Study.open("pbt").history()
    patients = Manifest.load(Study.open("pbt").split_path).parts["validation"].group
    best = history.ranked()[0]
    built = summary.build(Study.open("pbt"), patients)
    assert built["best"]["params"] == best.params_at(best.best(history.objective))
    row = built["trials"][1]
    chosen = perturbed().best(history.objective)
    assert row["params"]["lr"] == perturbed().params_at(chosen)["lr"]
