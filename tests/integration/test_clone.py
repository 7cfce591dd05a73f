"""``lungtune clone`` on studies that nobody runs and on running ones, with real training."""

import dataclasses
import json
import shutil
import threading
import time

import pytest

from in_process import InProcess
from lungtune import catalog, reopen, retrain
from lungtune.core import journal
from lungtune.core import params as parameters
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import State, Trial
from lungtune.data import dataset
from lungtune.engine import report_files
from lungtune.engine.session import Session
from lungtune.errors import StudyError
from lungtune.export import export
from lungtune.search import cloning, tuner
from lungtune.search.controller import TrialController
from tests.integration import retrain_study


@pytest.fixture
def home(tmp_path, monkeypatch):
    return retrain_study.copy(tmp_path / "home", monkeypatch.setenv)


def bytes_of(study):
    return {p.relative_to(study.folder): p.read_bytes() for p in sorted(study.folder.rglob("*")) if p.is_file()}


class Training:
    """The study's real session; the trials of a call are trained until one of them reports."""

    def __init__(self, study):
        space = SearchSpace.from_dict(study.history().study["space"])
        family = catalog.family("clip_lora")
        base = parameters.build(family.Base, space.base)
        data = dataset.load(dataset.inspect(retrain_study.SOURCE, seed=3), family.fields, base.image_size)
        self.session = Session(family, base, data, space.fidelity, space.objective)
        self.start, self.leave = self.session.start, self.session.leave

    def step(self, numbers):
        while not (due := self.session.step(numbers)):
            pass
        return due


def run(name, tick=lambda controller: None):
    """Run a study as the driver does, in this process; return its history."""
    study = Study.open(name)
    study.acquire()
    try:
        history = study.history()
        controller = TrialController(study, SearchSpace.from_dict(history.study["space"]), history.study["seed"])
        controller.take_requests()

        def ticked():
            tick(controller)
            controller.take_requests()

        tuner.run_trials(controller, InProcess(slots=1, session=Training), ticked)
        return controller.history
    finally:
        study.release()


def test_a_clone_goes_on_from_the_trials_checkpoint(home, door):
    left = door("clone", "mini", 1, "--set", "lr=0.001", "--set", "lora_dropout=0.2")
    assert left.code == 0, left.err
    assert left.out.splitlines() == [
        "trial 2: trial 1 with lr=0.001, lora_dropout=0.2, from the checkpoint at 1 passes.",
        "run it:",
        "  lungtune search --resume --study mini",
    ]
    study = Study.open("mini")
    event = journal.read(study.journal_path)[-1]
    assert (event["event"], event["trial"], event["origin"], event["clone_of"]) == ("trial", 2, "clone", 1)
    assert event["donor"]["trial"] == 1
    assert not any((study.folder / "requests").iterdir())
    history = study.history()
    trial = history.trials[2]
    assert (history.target, trial.seed, trial.fidelity) == (3, 5, 1.0)
    assert [(s.params["lr"], s.seed, s.until) for s in trial.lineage] == [(0.01, 4, 1.0), (0.001, 5, None)]
    _, _, meta = report_files.latest(study.checkpoints(2))
    assert meta["fidelity"] == 1.0
    history = run("mini")
    trial = history.trials[2]
    assert trial.state is State.COMPLETE
    assert [report.fidelity for report in trial.reports] == [1.5]
    assert history.work == pytest.approx(2 * 1.5 + 0.5)


def test_a_clones_recipe_reproduces_its_score(home, monkeypatch):
    cloning.clone("mini", 1, {"lr": 0.001})
    report = run("mini").trials[2].reports[-1]
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "best", lambda trial, *_, **__: trial.reports[-1])
        path = next(path for path in export("mini", top=3) if reopen.load(path)[1].trial == 2)
    assert [s.until for s in reopen.load(path)[0].segments] == [1.0]
    done = retrain.retrain(path)
    assert done.content["runs"][0]["metrics"]["nll"] == pytest.approx(report.metrics["nll"], abs=1e-6)
    assert done.reproduced == "yes"


def test_structural_changes_are_trained_from_scratch(home, door):
    left = door("clone", "mini", 0, "--set", "lora_rank=2")
    assert left.code == 0, left.err
    assert "from scratch (lora_rank decides what is trained, so no checkpoint fits)" in left.out
    trial = Study.open("mini").history().trials[2]
    assert (trial.donor, len(trial.lineage), trial.fidelity) == (None, 1, 0.0)
    assert not Study.open("mini").checkpoints(2).exists()
    assert run("mini").trials[2].reports[0].fidelity == 0.5


def test_from_scratch_is_a_choice(home, door):
    assert "from scratch." in door("clone", "mini", 0, "--set", "lr=0.005", "--from-scratch").out
    assert Study.open("mini").history().trials[2].donor is None
    assert "checkpoint at 1 passes" in door("clone", "mini", 0, "--set", "lr=0.005").out  # another training


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nini", 0, "--set", "lr=1"], "there is no study 'nini'"),
        (["mini", 7, "--set", "lr=0.1"], "the study 'mini' has no trial 7; its trials are 0 to 1."),
        (
            ["mini", 0, "--set", "learning_rate=0.1"],
            "'learning_rate' is not a parameter of clip_lora. Did you mean 'lr'",
        ),
        (["mini", 0, "--set", "lr=7"], "lr <= 1 must hold, but got 7"),
        (["mini", 0, "--set", "lr=[0.1, 0.2]"], "lr must be a number"),
        (["mini", 0, "--set", "image_size=32"], "image_size is a setting of the base, which all trials"),
        (["mini", 0, "--set", "lr=0.001"], "but lr=0.001 changes nothing"),
        (["mini", 0, "--set", "momentum=0.5"], "but momentum=0.5 changes nothing"),
        (["mini", 0], "a clone must differ from trial 0, but nothing changes nothing"),
        (["mini", 0, "--set", "class_weighting=[0.3, 0.7]"], "must have a weight for each of 6 classes"),
        (["mini", 0, "--set", "synthetic_ratio=1"], "needs synthetic images, but the study has no bank"),
        (["mini", "x", "--set", "lr=0.1"], "NUMBER must be a whole number >= 0, but got 'x'."),
    ],
)
def test_a_mistake_is_one_sentence_and_begins_nothing(home, door, words, sentence):
    before = bytes_of(Study.open("mini"))
    left = door("clone", *words)
    assert (left.code, left.out) == (2, "")
    assert sentence in left.err
    assert left.err.count("\n") == 1
    assert bytes_of(Study.open("mini")) == before


def test_a_second_equal_clone_is_refused(home, door):
    assert door("clone", "mini", 0, "--set", "lr=0.005").code == 0
    before = bytes_of(Study.open("mini"))
    left = door("clone", "mini", 0, "--set", "lr=0.005")
    assert left.code == 2
    assert "trial 2 of the study 'mini' is this clone already" in left.err
    assert bytes_of(Study.open("mini")) == before


def test_a_lost_checkpoint_names_the_remedy(home, door):
    study = Study.open("mini")
    for report in study.history().trials[0].reports:
        path = study.folder / report.checkpoint
        path.write_bytes(path.read_bytes()[:-9]) if path.exists() else None
    left = door("clone", "mini", 0, "--set", "lr=0.005")
    assert left.code == 2
    assert "add --from-scratch" in left.err
    assert not (study.folder / "requests").exists()
    assert door("clone", "mini", 0, "--set", "lr=0.005", "--from-scratch").code == 0


def test_a_running_search_takes_a_clone_in(home):
    """It holds the study; the request is journalled between two reports, and trained."""
    cloning.clone("mini", 0, {"lr": 0.005})  # something to run
    asked, answers = threading.Event(), []

    def ask():
        asked.wait(30)
        answers.append(cloning.clone("mini", 1, {"lr": 0.002}, wait=30))

    thread = threading.Thread(target=ask)
    thread.start()

    def tick(controller):
        if controller.running and not asked.is_set():
            asked.set()
            until = time.monotonic() + 20
            while not list((controller.study.folder / "requests").glob("[0-9]*")) and time.monotonic() < until:
                time.sleep(0.05)

    history = run("mini", tick)
    thread.join(30)
    (answer,) = answers
    assert (answer.number, history.trials[3].origin, history.trials[3].state) == (3, "clone", State.COMPLETE)
    assert (history.target, len(history.trials)) == (4, 4)
    assert [report.fidelity for report in history.trials[3].reports] == [1.5]


def test_an_unanswered_request_is_kept_and_taken_in_later(home, door, monkeypatch):
    study = Study.open("mini")
    study.acquire()
    monkeypatch.setattr(cloning, "WAIT", 0.3)
    left = door("clone", "mini", 0, "--set", "lr=0.005")
    assert left.code == 0
    assert "has not answered; it takes it in when it goes on" in left.out
    assert len(Study.open("mini").history().trials) == 2
    study.release()
    assert run("mini").trials[2].state is State.COMPLETE


def test_a_refusal_by_the_search_is_told(home):
    study = Study.open("mini")
    planned = cloning.plan(study, 0, {"lr": 0.005})
    cloning.ask(study, planned.request)
    later = dataclasses.replace(planned.request, id=planned.request.id + "-2")
    cloning.ask(study, later)
    broken = study.folder / "requests" / "9"
    broken.mkdir()
    (broken / "request.json").write_text("{}")
    run("mini")
    assert len(study.history().trials) == 3
    refused = {p.name: p.read_text() for p in (study.folder / "requests").iterdir()}
    assert refused.keys() == {f"{later.id}.refused", "9.refused"}
    assert "trial 2 of the study 'mini' is this clone already" in refused[f"{later.id}.refused"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cloning, "plan", lambda *_: dataclasses.replace(planned, request=later))
        with pytest.raises(StudyError, match="is this clone already"):
            cloning.clone("mini", 0, {"lr": 0.005})


@pytest.mark.parametrize("cut", ["before the checkpoint", "before the request is removed"])
def test_a_kill_while_a_clone_is_taken_in_loses_nothing(home, cut):
    study = Study.open("mini")
    planned = cloning.plan(study, 0, {"lr": 0.005})
    cloning.ask(study, planned.request)
    study.acquire()
    history = study.history()
    space = SearchSpace.from_dict(history.study["space"])

    def write(event, **fields):
        history.apply(study.append(event, **fields))

    number = cloning.take(study, history, space, planned.request, write)
    if cut == "before the request is removed":
        shutil.copytree(study.folder / "requests" / planned.request.id, home / "kept")
        cloning.place(study, planned.request, number)
        shutil.rmtree(home / "kept" / "start")
        shutil.move(home / "kept", study.folder / "requests" / planned.request.id)
    study.release()
    history = run("mini")
    assert (len(history.trials), history.target) == (3, 3)
    assert [report.fidelity for report in history.trials[2].reports] == [1.5]
    assert not any((study.folder / "requests").iterdir())


def test_clones_take_no_turn_of_the_sampler(tmp_path):
    """The start points and the sampler's suggestions are the same with a clone in between."""
    import simulated

    def suggested(clone):
        space = simulated.space(5, faults=("none", "none"), sampler="random")
        study = simulated.begin(tmp_path / f"s{clone}", space)
        controller = TrialController(study, space, 0)
        controller.next()
        if clone:
            original = controller.history.trials[0]
            params = {**original.params, "quality": 0.9}
            cloning.ask(study, cloning.Request("1", 0, params, None))
            controller.take_requests()
            assert controller.next().number == 1
        while controller.next() is not None:
            pass
        trials = controller.history.trials.values()
        study.release()
        return [(t.params["quality"], t.origin) for t in trials if t.origin != "clone"], [t.number for t in trials]

    plain, numbers = suggested(False)
    cloned, more = suggested(True)
    assert cloned == plain
    assert (numbers, more) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5])


def test_a_request_is_readable_json(home):
    study = Study.open("mini")
    planned = cloning.plan(study, 0, {"lr": 0.005})
    cloning.ask(study, planned.request)
    (folder,) = (study.folder / "requests").iterdir()
    assert json.loads((folder / "request.json").read_text())["donor"]["fidelity"] == 1.0
    assert cloning.pending(study) == [planned.request]
