"""Export for Optuna: what ``optuna.load_study`` reads is what the journal says; mistakes leave nothing behind."""

import math
import sys
from datetime import datetime

import optuna
import pytest
from optuna.trial import TrialState

import simulated
from lungtune import catalog, commands, optuna_export
from lungtune.core.study import Study
from lungtune.core.trial import State
from lungtune.errors import StudyError
from lungtune.search import sampler
from tests.integration import tracking_study, version_0_1

NAME = "clip_lora-1"
STATES = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}
STATES |= {"RUNNING": TrialState.RUNNING, "PAUSED": TrialState.PRUNED}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a recorded study: trials of all states, 16 is paused and 17 runs."""
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    events = list(tracking_study.script(18, name=NAME))
    ended = [at for at, (kind, fields) in enumerate(events) if kind == "end" and fields["trial"] in (16, 17)]
    paused = {"trial": 16, "fidelity": 2.0}
    events = [event for at, event in enumerate(events) if at not in ended and event[0] not in ("summary", "stop")]
    tracking_study.write(tmp_path / "studies" / NAME, [*events, ("pause", paused)])
    return tmp_path


def loaded(path, name=NAME):
    return optuna.load_study(study_name=name, storage=optuna_export.storage(path))


@pytest.fixture(params=optuna_export.SUFFIXES)
def exported(request, home):
    """The exported study, in each kind of storage, and its history."""
    path = home / "new folder" / f"study?{request.param}"
    assert optuna_export.export(NAME, path) == 18
    assert [each.name for each in path.parent.iterdir()] == [path.name], "nothing but the file is left"
    plain = home / f"plain{request.param}"  # a URL takes no question mark
    plain.write_bytes(path.read_bytes())
    return loaded(plain), Study.open(NAME).history()


def test_trials_keep_states_values_and_times(exported):
    study, history = exported
    objective = history.objective
    assert study.direction.name == "MAXIMIZE"
    assert {trial.state for trial in history.trials.values()} == set(State)
    for frozen, (number, trial) in zip(study.trials, sorted(history.trials.items()), strict=True):
        assert (frozen.number, frozen.state) == (number, STATES[trial.state])
        scored = trial.state not in (State.FAIL, State.RUNNING)
        assert frozen.value == (trial.value(objective) if scored else None)
        assert frozen.datetime_start == datetime.fromtimestamp(trial.suggested_at)
        assert (frozen.datetime_complete is None) == (trial.state is State.RUNNING)
        if trial.ended_at:
            assert frozen.datetime_complete == datetime.fromtimestamp(trial.ended_at)
    assert study.best_trial.number == next(t.number for t in history.ranked() if t.state is State.COMPLETE)


def test_reports_are_intermediate_values_by_passes(exported):
    study, history = exported
    for frozen, trial in zip(study.trials, history.trials.values(), strict=True):
        scores = {round(r.fidelity * 1000): r.metrics["macro_f1"] for r in trial.reports}
        assert frozen.intermediate_values == scores
        assert frozen.user_attrs["fidelities"] == {str(step): step / 1000 for step in scores}
    assert study.user_attrs["steps_per_pass"] == 1000


def test_params_have_their_distributions(exported):
    study, history = exported
    for frozen, trial in zip(study.trials, history.trials.values(), strict=True):
        assert frozen.params == trial.sampled
        assert frozen.distributions == tracking_study.AXES
        assert frozen.user_attrs["fixed"] == tracking_study.FIXED


def test_attributes_name_origin_seed_reason_and_metrics(exported):
    study, history = exported
    for frozen, trial in zip(study.trials, history.trials.values(), strict=True):
        attrs, best = frozen.user_attrs, trial.best(history.objective)
        assert (attrs["trial"], attrs["state"], attrs["origin"]) == (trial.number, trial.state.value, trial.origin)
        assert (attrs["seed"], attrs["fidelity"]) == (trial.seed, trial.fidelity)
        assert attrs.get("reason", "") == trial.reason
        metrics = {key.removeprefix("metrics."): value for key, value in attrs.items() if key.startswith("metrics.")}
        assert metrics == (best.metrics if best else {})
        assert attrs.get("best_fidelity") == (best.fidelity if best else None)
    assert study.trials[5].user_attrs["message"].endswith("'loss' became nan")
    assert study.trials[7].user_attrs["duplicate_of"] == 0
    assert study.trials[7].value == study.trials[0].value


def test_study_names_space_data_and_metric(exported):
    study, history = exported
    attrs = study.user_attrs
    assert (attrs["space"], attrs["metric"], attrs["mode"]) == ("clip_lora", "classification.macro_f1", "max")
    assert (attrs["data_hash"], attrs["study_id"]) == (history.study["data"]["hash"], history.study["id"])
    assert attrs["baselines"]["constant"]["macro_f1"] == 0.218
    assert study.metric_names == ["macro_f1"]


def test_importances_are_computed_and_the_study_goes_on(exported):
    study, _ = exported
    importances = optuna.importance.get_param_importances(study)
    assert set(importances) == set(tracking_study.AXES)
    forest = optuna.importance.FanovaImportanceEvaluator(seed=0, n_trees=8)
    assert set(optuna.importance.get_param_importances(study, evaluator=forest)) == set(tracking_study.AXES)
    study.sampler = optuna.samplers.TPESampler(seed=0)
    asked = study.ask(tracking_study.AXES)
    assert (asked.number, set(asked.params)) == (18, set(tracking_study.AXES))


def several(home, *names):
    """A study over several spaces: each one's start point, then suggestions."""
    space = catalog.space(",".join(names), "demo", {})
    study = simulated.begin(home / "studies" / "several", space)
    for number in range(6):
        made = sampler.suggest(space, study.history(), 0, number)
        study.append("trial", trial=number, params=made.params, sampled=made.sampled, seed=number,
                     distributions=made.distributions, origin=made.origin)  # fmt: skip
        study.append("report", trial=number, fidelity=space.fidelity.max, samples=9, checkpoint=None,
                     metrics={space.objective.metric: 0.1 * number})  # fmt: skip
        study.append("end", trial=number, state="COMPLETE", reason="", message="")
    study.release()
    return space, study.history()


@pytest.mark.parametrize("suffix", optuna_export.SUFFIXES[:2])
def test_several_spaces_have_params_of_their_own(home, suffix):
    space, history = several(home, "clip_lora", "conformer_full")
    path = home / f"s{suffix}"
    optuna_export.export("several", path)
    study = loaded(path, "several")
    shared = {"space"}
    for frozen, trial in zip(study.trials, history.trials.values(), strict=True):
        name = trial.params["space"]
        member = space.of(trial.params)
        assert frozen.params["space"] == name
        assert f"{name}.batch_size" in {*frozen.params, *frozen.user_attrs.get("outside", ())}, "choices differ"
        values = frozen.params | frozen.user_attrs.get("outside", {})
        assert {key.removeprefix(f"{name}."): value for key, value in values.items()} == trial.sampled
        for key, axis in frozen.distributions.items():
            if key not in shared:
                assert axis == member.axes[key.removeprefix(f"{name}.")]
    with pytest.warns(UserWarning, match="less than 2 trials"):
        assert "space" in optuna.importance.get_param_importances(study)


def test_start_value_outside_its_range_is_an_attribute(home):
    _, history = several(home, "conformer_full", "clip_lora")
    optuna_export.export("several", home / "s.db")
    start = loaded(home / "s.db", "several").trials[0]
    assert start.state is TrialState.COMPLETE
    assert start.user_attrs["outside"]["lr"] == 0.1 == history.trials[0].params["lr"]
    assert not set(start.user_attrs["outside"]) & set(start.params)


@pytest.mark.parametrize("name", ["both", "mixed", "unet", "gen"])
def test_studies_of_version_0_1_are_exported(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LUNGTUNE_HOME", str(tmp_path))
    version_0_1.unpack(tmp_path, tmp_path, f"studies/{name}/")
    optuna_export.export(name, tmp_path / "old.db")
    history = Study.open(name).history()
    study = loaded(tmp_path / "old.db", name)
    assert [t.user_attrs["state"] for t in study.trials] == [t.state.value for t in history.trials.values()]
    finite = [t for t in study.trials if t.value is not None]
    assert finite
    assert all(math.isfinite(trial.value) for trial in finite)


def test_study_without_trials_is_exported(home):
    tracking_study.write(home / "studies" / "empty", [tracking_study.head("empty")])
    assert optuna_export.export("empty", home / "empty.log") == 0
    assert loaded(home / "empty.log", "empty").trials == []


@pytest.fixture
def left(home, monkeypatch, capsys):
    """Return a function that runs ``lungtune export`` and returns exit code, output and errors."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lungtune", "export", *map(str, words)])
        with pytest.raises(SystemExit, match=r"^\d$") as exit:
            commands.run()
        return int(str(exit.value)), *capsys.readouterr()

    return run


def test_command_names_the_file_and_the_dashboard(left, home):
    path = home / "x.db"
    code, out, _ = left("--study", NAME, "--optuna", path)
    assert (code, out) == (0, f"{path}: the study '{NAME}', 18 trials\nnext: optuna-dashboard sqlite:///{path}\n")
    assert len(loaded(path).trials) == 18


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--study", NAME, "--optuna", "x.csv"], "a file that ends in .db, .log, .journal, but got 'x.csv'."),
        (["--study", NAME, "--optuna", "x"], "a file that ends in .db, .log, .journal, but got 'x'."),
        (["--study", "clip_lora-2", "--optuna", "x.db"], "Did you mean 'clip_lora-1'?"),
        (["--study", NAME, "--optuna", "x.db", "--top", "2"], "leave --top and --out out."),
        (["--study", NAME, "--optuna", "x.db", "--out", "y"], "leave --top and --out out."),
        (["--study", NAME, "--optuna", "taken.db"], "taken.db does; remove it or name another."),
        (["--study", NAME, "--optuna", "taken.db/x.log"], "taken.db/x.log must be writable, but: "),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(left, home, monkeypatch, words, sentence):
    monkeypatch.chdir(home)
    (home / "taken.db").write_text("mine")
    code, out, err = left(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert sentence in err
    assert sorted(path.name for path in home.iterdir()) == ["studies", "taken.db"]
    assert (home / "taken.db").read_text() == "mine"


def test_failure_while_writing_leaves_no_file(home, monkeypatch):
    def full(self, trial):
        raise StudyError("no room")

    monkeypatch.setattr(optuna.Study, "add_trial", full)
    for suffix in optuna_export.SUFFIXES:
        with pytest.raises(StudyError, match="no room"):
            optuna_export.export(NAME, home / f"x{suffix}")
    assert [path.name for path in home.iterdir()] == ["studies"]
