"""Migration of 0.1 journals, and refusal of other versions."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lungtune.core import migration
from lungtune.core.space import SearchSpace
from lungtune.core.trial import History, Objective
from lungtune.errors import StudyError


def begun(metric: str = "macro_f1", mode: str = "max", **space: Any) -> dict[str, Any]:
    """The first event of a journal of 0.1, with all that a space needs."""
    plain = {
        "name": "clip_head", "family": "clip_head", "summary": "", "profile": "demo", "sampler": "tpe", "trials": 2,
        "objective": {"metric": metric, "mode": mode}, "fidelity": {"max": 3.0, "min": 0.5, "eta": 3.0, "report": 0.0},
        "base": {}, "fixed": {}, "axes": {}, "start": [], "text": "",
    }  # fmt: skip
    return {"event": "study", "time": 1.0, "schema": 1, "name": "head", "id": "5" * 32, "space": plain | space}


@pytest.mark.parametrize(
    ("metric", "mode", "task"),
    [
        ("macro_f1", "max", "classification"),
        ("nll", "min", "classification"),
        ("cmmd", "min", "generation"),
        ("coverage", "max", "generation"),
    ],
)
def test_objective_without_task_gets_its_task(metric: str, mode: str, task: str) -> None:
    assert History([begun(metric, mode)]).objective == Objective(metric, mode, task)


def test_space_without_scheduler_stops_at_rungs() -> None:
    assert migration.study(begun())["space"]["scheduler"] == {"name": "asha", "mode": "stop"}


@pytest.mark.parametrize("mode", ["stop", "promote"])
def test_asha_keeps_its_mode(mode: str) -> None:
    config = {"name": "asha", "mode": mode}
    assert migration.study(begun(scheduler=config))["space"]["scheduler"] == config


def test_scheduler_none_loses_its_unused_mode() -> None:
    migrated = migration.study(begun(scheduler={"name": "none", "mode": "stop"}))["space"]
    assert migrated["scheduler"] == {"name": "none"}
    assert SearchSpace.from_dict(migrated).scheduler.to_dict() == {"name": "none"}


def test_members_are_read_like_spaces_of_their_own() -> None:
    member = begun("cmmd", "min", scheduler={"name": "none", "mode": "promote"})["space"]
    migrated = migration.study(begun("cmmd", "min", members=[member, begun("cmmd", "min")["space"]]))["space"]
    assert [each["objective"]["metric"] for each in migrated["members"]] == ["generation.cmmd"] * 2
    assert [each["scheduler"]["name"] for each in migrated["members"]] == ["none", "asha"]
    assert [each.scheduler.to_dict() for each in SearchSpace.from_dict(migrated).members] == [
        {"name": "none"},
        {"name": "asha", "mode": "stop"},
    ]


def test_event_without_schema_is_read_as_one_of_0_1() -> None:
    event = begun()
    assert migration.study({key: value for key, value in event.items() if key != "schema"}) == migration.study(event)


def test_reading_an_old_event_leaves_it_as_it_is() -> None:
    event = begun(members=[begun()["space"]], scheduler={"name": "none", "mode": "stop"})
    before = copy.deepcopy(event)
    migration.study(event)
    assert event == before


def test_present_event_is_returned_unchanged() -> None:
    event = migration.study(begun(members=[begun()["space"]]))
    assert event["schema"] == migration.SCHEMA
    assert migration.study(event) == event


def test_newer_schema_ends_in_one_sentence() -> None:
    message = r"^the study 'head' must be of schema 2 or older, but is of schema 3; update lungtune\.$"
    with pytest.raises(StudyError, match=message):
        History([begun() | {"schema": 3}])
