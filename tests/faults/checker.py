"""The checker of all fault tests: nothing lost, nothing doubled, journal = MLflow = summary, exit code and sentence."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from lungtune.core import journal
from lungtune.core.space import SearchSpace
from lungtune.core.study import Study
from lungtune.core.trial import History, State
from lungtune.search.controller import TrialController
from lungtune.tracking import sync
from tests.faults.drive import Left

_ENDED = {State.COMPLETE, State.PRUNED, State.FAIL}


def check(
    folder: Path,
    *,
    uri: str | None = None,
    left: Left | None = None,
    code: int | None = None,
    says: str | None = None,
    finished: bool = True,
) -> History:
    """Check a study after a fault; return its history.

    Args:
        folder: of the study.
        uri: of MLflow; what is missing there is delivered first. None: not checked.
        left: of the search's process; it printed no traceback.
        code: its exit code.
        says: regular expression found in its output.
        finished: every trial has ended, none as FAIL, and the summary says so.
    """
    if left is not None:
        assert "Traceback" not in left.out + left.err, left.err[-3000:]
        assert code is None or left.code == code, (left.code, left.out[-1500:], left.err[-1500:])
        assert says is None or re.search(says, left.out + left.err), (says, left.out[-1500:], left.err[-1500:])
    events = journal.read(folder / "journal.jsonl")
    history = History(events)
    _check_journal(events, history)
    if finished:
        assert len(history.trials) == history.target
        assert not history.of(State.RUNNING, State.PAUSED, State.FAIL), _states(history)
        _check_summary(folder, history)
    if uri is not None:
        _check_runs(folder, history, uri)
    return history


def _states(history: History) -> dict[int, str]:
    return {number: f"{trial.state.value} {trial.reason}" for number, trial in history.trials.items()}


def _check_journal(events: list[dict[str, Any]], history: History) -> None:
    """Each trial is there once; each fidelity was reported once; nothing follows an end."""
    assert [each["event"] for each in events].count("study") == 1
    assert events[0]["event"] == "study"
    assert sorted(history.trials) == list(range(len(history.trials)))
    ended: set[int] = set()
    reported: Counter[tuple[int, float]] = Counter()
    for each in events:
        number, kind = each.get("trial"), each["event"]
        if kind in ("start", "report", "pause", "lost", "end"):
            assert number not in ended, f"{kind} of trial {number} after its end"
        if kind == "report":
            reported[number, each["fidelity"]] += 1
        if kind == "end":
            ended.add(number)
    assert not [key for key, count in reported.items() if count > 1], "a fidelity was reported twice"
    assert ended == {number for number, trial in history.trials.items() if trial.state in _ENDED}
    for trial in history.trials.values():
        fidelities = [report.fidelity for report in trial.reports]
        assert fidelities == sorted(fidelities), f"trial {trial.number} went back"


def _check_summary(folder: Path, history: History) -> None:
    """``summary.json`` holds the journal's trials, states, reports and best."""
    summary = json.loads((folder / "summary.json").read_text())
    trials = {trial["number"]: trial for trial in summary["trials"]}
    assert trials.keys() == history.trials.keys()
    for number, trial in history.trials.items():
        assert (trials[number]["state"], trials[number]["reason"]) == (trial.state.value, trial.reason)
        assert [each["fidelity"] for each in trials[number]["reports"]] == [each.fidelity for each in trial.reports]
    ranked = history.ranked()
    assert (summary["best"] or {}).get("trial") == (ranked[0].number if ranked else None)


def _check_runs(folder: Path, history: History, uri: str) -> None:
    """MLflow holds one run of the study, one of each trial, and each report once."""
    from mlflow import MlflowClient

    delivery = sync(folder, uri)
    assert delivery, delivery.sentence
    client = MlflowClient(uri)
    mine = f"tags.`lungtune.study_id` = '{history.study['id']}'"
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()], mine, max_results=5000)
    keys = Counter(run.data.tags.get("lungtune.trial", "study") for run in runs)
    assert keys == Counter(["study", *map(str, history.trials)]), keys
    metric = history.objective.metric
    for run in runs:
        key = run.data.tags.get("lungtune.trial")
        if key is None:
            parent = run.info.run_id
            continue
        steps = sorted(each.step for each in client.get_metric_history(run.info.run_id, metric))
        assert steps == sorted(report.samples for report in history.trials[int(key)].reports), key
    assert {run.data.tags["mlflow.parentRunId"] for run in runs if "lungtune.trial" in run.data.tags} <= {parent}


def check_decisions(folder: Path, again: Path) -> None:
    """A controller that is never cut off, shown the same reports in the same order, decides the same.

    Args:
        folder: of the study.
        again: a folder for the controller's own study; created.
    """
    import simulated

    study = Study(folder)
    head = study.history().study
    space = SearchSpace.from_dict(head["space"])
    straight = TrialController(simulated.begin(again, space, head["seed"]), space, head["seed"])
    for event in study_events(study):
        number = event["trial"]
        if event["event"] == "trial":
            assigned = straight.next()
            assert assigned is not None
            assert (assigned.number, assigned.params) == (number, event["params"])
        elif event["event"] == "start":
            if number not in straight.running:  # else it went on after an interruption
                assigned = straight.next()
                assert assigned is not None
                assert (assigned.number, assigned.known) == (number, event["fidelity"])
        elif event["event"] == "report":
            straight.report(number, event)
        elif event["event"] == "pause":
            assert straight.history.trials[number].state is State.PAUSED
        else:
            if not straight.running and straight.history.trials[number].state is State.PAUSED:
                assert straight.next() is None, "what is paused ends with the search"
            decided = straight.history.trials[number]
            assert (decided.state.value, decided.reason) == (event["state"], event["reason"])


def study_events(study: Study) -> list[dict[str, Any]]:
    """Return the events of trials that are decisions or reports."""
    kinds = ("trial", "start", "report", "pause", "end")
    return [each for each in journal.read(study.journal_path) if each["event"] in kinds]
