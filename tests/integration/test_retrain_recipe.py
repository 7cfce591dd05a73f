"""Retraining of a recipe: reproduced score, standalone weights, one evaluation on the test set."""

import csv
import json
import os
import subprocess
import sys

import pytest
from filelock import FileLock

from lungtune import reopen
from lungtune.data import dataset
from lungtune.engine.pack import Pack
from lungtune.errors import CheckpointError, DataError, SpaceError, StudyError, TrialError
from lungtune.export import export
from lungtune.report import retrain_report
from lungtune.retrain import retrain
from lungtune.tasks.classification import METRICS
from lungtune.tasks.classification.retraining import ClassificationRetraining
from tests.integration import retrain_study


@pytest.fixture
def home(tmp_path, monkeypatch):
    return retrain_study.copy(tmp_path / "home", monkeypatch.setenv)


@pytest.fixture
def recipes(home):
    return export("mini", top=2)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def ledger(home):
    return events(home / "studies" / "mini" / "ledger.jsonl")


def edit(path, before, after):
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    return path


@pytest.mark.parametrize("rank", [0, 1])
def test_retrained_score_equals_the_searched_one(home, recipes, rank):
    """One trial's best report is its last, the other's an earlier one; both come back to the last digit."""
    done = retrain(recipes[rank])
    reproduction = done.content["reproduction"]
    assert done.reproduced == "yes"
    assert reproduction["retrained"] == pytest.approx(reproduction["searched"], abs=1e-9)
    searched = reopen.load(recipes[rank])[0].provenance["validation"]
    for name in METRICS:
        assert done.content["runs"][0]["metrics"][name] == pytest.approx(searched[name], abs=2e-6)
    assert done.content["test"] is None
    assert not (home / "studies" / "mini" / "ledger.jsonl").exists()
    assert not (done.folder / "work").exists()


def test_report_is_complete(home, recipes):
    done = retrain(recipes[0])
    assert json.loads((done.folder / "report.json").read_text()) == done.content
    part = done.content["validation"]
    assert sum(map(sum, part["confusion"])) == part["cases"]
    assert {"macro_f1", "recall_viral"} < part["metrics"].keys()
    words = (done.folder / "report.md").read_text()
    assert "Reproduced: yes" in words
    assert "| truth \\ predicted | normal |" in words
    assert "| always 'bacterial' |" in words
    rows = table(done.folder / "validation.csv")
    assert len(rows) == part["cases"]
    figures = {"validation_confusion_matrix.png", "validation_roc.png"}
    assert {path.name for path in done.folder.glob("*.png")} == figures


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_weights_load_without_lungtune(home, recipes, monkeypatch, capsys, fresh):
    """The README's own snippet, where lungtune can't be imported, gives the report's probabilities.

    Here, and in a fresh process, which imports open_clip and timm for five to ten seconds.
    """
    done = retrain(recipes[0])
    readme = (done.weights / "README.md").read_text()
    snippet = readme.split("```python\n")[1].split("```")[0]
    blocked = "import sys; sys.modules['lungtune'] = None\n" + snippet
    case = table(done.folder / "validation.csv")[0]
    entries = dataset.inspect(retrain_study.SOURCE, seed=3).manifest.parts["validation"]
    picture = entries.path[entries.case_id.index(case["case_id"])]
    words = ["-c", blocked, str(done.weights), picture]
    if fresh:
        reported = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True).stdout
    else:
        with monkeypatch.context() as hidden:
            for name in [name for name in sys.modules if name.split(".")[0] == "lungtune"]:
                hidden.setitem(sys.modules, name, None)
            hidden.setattr(sys, "argv", words[1:])
            capsys.readouterr()
            exec(compile(snippet, "README.md", "exec"), {})
        reported = capsys.readouterr().out
    alone = json.loads(reported)
    assert alone == {name: pytest.approx(float(case[name]), abs=0.02) for name in alone}


def test_several_seeds_do_not_change_the_first_run(home, recipes):
    alone, three = retrain(recipes[0]), retrain(recipes[0], seeds=3, out=home / "three")
    values = [run["value"] for run in three.content["runs"]]
    seed = reopen.load(recipes[0])[0].seed
    assert [run["seed"] for run in three.content["runs"]] == [seed, seed + 1, seed + 2]
    assert values[0] == pytest.approx(alone.content["runs"][0]["value"], abs=1e-9)
    assert len(set(values)) > 1
    assert three.content["spread"]["mean"] == pytest.approx(sum(values) / 3)
    assert three.reproduced == "yes"
    assert three.content["spread_others"]["mean"] == pytest.approx(sum(values[1:]) / 2)
    for words in (three.text, (three.folder / "report.md").read_text()):
        assert "sd over seeds" in words
        assert f"Seed {seed} is the searched one: its score was selected" in words
        assert "The other seeds alone, validation: mean " in words
        assert f"shown are those of seed {seed}." in words
    assert "searched one" not in alone.text


def test_the_test_set_opens_once(home, recipes, monkeypatch):
    opened = []
    load = dataset.load

    def watched(data, fields, size, *, test=False, **more):
        if test:
            opened.append([entry["event"] for entry in ledger(home)])
        return load(data, fields, size, test=test, **more)

    monkeypatch.setattr(dataset, "load", watched)
    done = retrain(recipes[0], seeds=2, test=True)
    assert opened == [["opened"]], "the ledger's entry stands there before a test image is decoded"
    part = done.content["test"]
    assert part["cases"] == 36
    assert part["constant"]["metrics"]["accuracy"] < 0.5
    assert "confusion matrix" in done.text
    assert "## Test" in (done.folder / "test_report.md").read_text()
    assert len([run for run in done.content["runs"] if run["test"] is not None]) == 2
    first, last = ledger(home)
    assert (first["event"], last["event"]) == ("opened", "result")
    assert first["pid"] == os.getpid()
    assert first["recipe"] == last["recipe"] == done.content["fingerprint"]
    assert last["metrics"]["macro_f1"] == part["metrics"]["macro_f1"]["value"]
    for path in recipes:
        refusal = rf"was opened on {first['date'][:10]} .* by mini-1.yaml: macro_f1 {last['metrics']['macro_f1']:.3f}"
        with pytest.raises(StudyError, match=refusal):
            retrain(path, test=True)
    assert len(opened) == 1
    assert len(ledger(home)) == 2
    retrain(recipes[0])
    assert (done.folder / "test_report.json").exists(), "a later report without a test leaves the test's alone"


def test_crashed_opening_is_repeated_by_the_same_recipe_only(home, recipes, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(retrain_report, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            retrain(recipes[0], test=True)
    assert [entry["event"] for entry in ledger(home)] == ["opened"]
    with pytest.raises(StudyError, match=r"by mini-1\.yaml, which ended without a result; only that recipe"):
        retrain(recipes[1], test=True)
    trained = []
    monkeypatch.setattr("lungtune.engine.pack.Pack.step", lambda *_: trained.append(1))
    retrain(recipes[0], test=True)
    assert [entry["event"] for entry in ledger(home)] == ["opened", "opened", "result"]
    assert not trained, "it went on from its checkpoints"


@pytest.mark.parametrize("survivors", [0, 1])
def test_a_damaged_model_opens_no_test_set(home, recipes, monkeypatch, survivors):
    """An older checkpoint, or a fresh adapter, must not be scored in its place."""
    path = max(recipes, key=lambda path: reopen.load(path)[1].fidelity)
    write = ClassificationRetraining.weights

    def damage(work, draft):
        write(work, draft)
        folder = work.each[0].folder
        for file in sorted(folder.glob("*.safetensors"))[survivors:]:
            file.write_bytes(b"torn")

    with monkeypatch.context() as broken:
        broken.setattr(ClassificationRetraining, "weights", damage)
        with pytest.raises(CheckpointError, match=r"must go on from .* passes to be scored on the test set"):
            retrain(path, test=True)
    assert not (home / "studies" / "mini" / "ledger.jsonl").exists()
    assert retrain(path, test=True).reproduced == "yes"


def test_second_process_is_refused(home, recipes):
    held = FileLock(home / "studies" / "mini" / ".ledger.jsonl.lock")
    with held, pytest.raises(StudyError, match="being opened by another process"):
        retrain(recipes[0], test=True)
    (home / "models" / "mini-1").mkdir(parents=True, exist_ok=True)
    held = FileLock(home / "models" / "mini-1" / ".lock")
    with held, pytest.raises(StudyError, match="another process is retraining into"):
        retrain(recipes[0])


def test_shared_recipe_has_its_ledger_next_to_it(home, recipes, tmp_path, monkeypatch):
    """A colleague has the recipe and the data, but not the study."""
    path = tmp_path / "mail" / "mini-1.yaml"
    path.parent.mkdir()
    path.write_text(recipes[0].read_text())
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path / "colleague"))
    assert retrain(path, test=True).reproduced == "yes"
    entries = events(path.parent / "ledger.jsonl")
    assert [entry["event"] for entry in entries] == ["opened", "result"]
    with pytest.raises(StudyError, match="was opened on"):
        retrain(path, test=True)
    monkeypatch.setenv("LUNGTUNE_HOME", str(home))  # back where the study is: the opening beside the recipe counts
    with pytest.raises(StudyError, match="was opened on"):
        retrain(path, test=True)


def test_an_edited_recipe_trains_but_is_not_compared(home, recipes):
    done = retrain(edit(recipes[0], "  lora_dropout: 0.1", "  lora_dropout: 0.2"))
    assert done.reproduced == "not compared"
    assert "the recipe was edited" in done.text


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  lr: ", "  lrr: ", r"mini-1.yaml:\d+: 'lrr' is not a parameter.*Did you mean 'lr'"),
        ("  lora_dropout: 0.1", "  lora_dropout: 7", r"mini-1.yaml:\d+: lora_dropout <= 0.9 must hold, but got 7"),
        ("  lora_dropout: 0.1", "  lora_dropout: {low: 0, high: 0.5}", "these are ranges: lora_dropout"),
        ("  split_seed: 3", "", "provenance.split_seed is missing; write recipes with lungtune export"),
        ("  study_id: ", "  study_id: 7 #", "provenance.study_id is 7"),
        ("\nseed: ", "\n# ", "'seed:' is missing"),
        ("  fidelity: ", "  fidelity: 0.7 # ", r"must be one of the recipe's reports \(0.5, 1, 1.5\), but is 0.7"),
        (
            'class_weighting: "none"',
            "class_weighting: {normal: 0.3, covid: 0.7}",
            r"must name every class \(.*\), but .* lacks",
        ),
        ('family: "clip_lora"', "family: clip_lor", "there is no model family 'clip_lor'.*Did you mean 'clip_lora'"),
    ],
)
def test_tampered_recipe_is_refused(home, recipes, before, after, message):
    with pytest.raises(SpaceError, match=message):
        retrain(edit(recipes[0], before, after))
    assert not (home / "models").exists()


def test_missing_recipe_gets_a_suggestion(home, recipes):
    with pytest.raises(SpaceError, match=r"there is no recipe .*mini-11\.yaml.*Did you mean"):
        retrain(recipes[0].with_name("mini-11.yaml"))


@pytest.mark.parametrize("how", ["recipe", "flag"])
def test_other_data_are_refused_before_training(home, recipes, how):
    other = "phantom,n=84,test=36,size=32,seed=1"
    path = edit(recipes[0], retrain_study.SOURCE, other) if how == "recipe" else recipes[0]
    with pytest.raises(DataError, match=r"must hold the split the recipe was searched on .* name them with --data"):
        retrain(path, data=None if how == "recipe" else other)
    assert not (home / "models").exists()


def test_failed_run_is_reported(home, recipes, monkeypatch):
    """The second seed's failure is a line of the report; that of the recipe's own seed ends the retraining."""
    step, broken = Pack.step, {1}

    def nan(pack, slots=None):
        return {slot: float("nan") if slot in broken else loss for slot, loss in step(pack, slots).items()}

    monkeypatch.setattr(Pack, "step", nan)
    done = retrain(recipes[0], seeds=2)
    assert "the training loss became nan" in done.content["runs"][1]["failure"]
    assert done.content["spread"]["sd"] is None
    assert done.reproduced == "yes"
    broken.add(0)
    with pytest.raises(TrialError, match=r"recipe's seed \d failed: the training loss became nan"):
        retrain(recipes[0])


def test_script_prints_headline_and_one_sentence_errors(home, recipes, door):
    done = door("retrain", recipes[0], "--test")
    assert done.code == 0
    assert done.out.startswith("reproduced: yes, searched")
    assert "test: 36 images" in done.out
    done = door("retrain", recipes[0], "--test")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: the test set of the study 'mini' was opened on")
    assert "Traceback" not in done.err
