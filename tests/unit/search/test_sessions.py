"""One session per base: trials step together by base, and idle sessions are closed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import CategoricalDistribution

import toy
from lungtune.core.fields import Field
from lungtune.core.params import param
from lungtune.core.resource import Fidelity
from lungtune.core.space import SPACE, SearchSpace, together
from lungtune.core.study import Study
from lungtune.core.trial import Objective
from lungtune.data.dataset import Dataset, Part
from lungtune.engine import capacity, session
from lungtune.search import device_session
from toy import CLASSES, LABELS, Toy


@dataclass(frozen=True)
class Base:
    """A size, and a name that makes bases differ."""

    image_size: int = param(8)
    model: str = param("a")


class Family(Toy):
    """Toy's, with several bases."""

    Base = Base


def space(name: str, models: tuple[str, ...]) -> SearchSpace:
    return SearchSpace(
        name=name, family=name, summary="", profile="full", objective=Objective("macro_f1"), sampler="tpe", trials=4,
        fidelity=Fidelity(3, 1), base={"image_size": 8, "model": models[0]}, fixed={"lr": 1e-2},
        axes={"model": CategoricalDistribution(models)}, start=({},),
    )  # fmt: skip


def part() -> Part:
    return toy.part(np.random.default_rng(0).integers(0, 256, (len(LABELS), 8, 8), dtype=np.uint8), LABELS)


@pytest.fixture
def sessions() -> tuple[session.Sessions, list[int]]:
    opened: list[int] = []

    def data(fields: Sequence[Field], size: int) -> Dataset:
        opened.append(size)
        return Dataset(tuple(CLASSES), part(), part(), None, None, None, "")  # type: ignore[arg-type]

    both = together([space("one", ("a", "b")), space("two", ("c", "d", "e"))])
    return session.Sessions(both, lambda name: Family(), data, slots=2), opened


def trial(name: str, model: str) -> dict[str, Any]:
    return {SPACE: name, "model": model, "lr": 1e-2}


def test_trials_of_one_base_share_a_session_and_others_do_not(sessions: Any) -> None:
    built, _ = sessions
    assert built.of(trial("one", "a")) is built.of(trial("one", "a"))
    assert built.of(trial("one", "a")) is not built.of(trial("one", "b"))
    assert built.of(trial("two", "c")).base == Base(model="c")


def test_each_trial_trains_as_in_a_session_of_its_own(sessions: Any, tmp_path: Path) -> None:
    built, _ = sessions
    which = {0: trial("one", "a"), 1: trial("one", "b"), 2: trial("two", "c"), 3: trial("one", "a")}
    for number, params in which.items():
        built.start(number, params, number, tmp_path / str(number))
    assert built.runs.keys() == which.keys()
    reports: dict[int, Any] = {}
    while len(reports) < 4:
        reports |= dict(built.step([n for n in which if n not in reports]))
    for number, params in which.items():
        alone = session.Session(
            Family(), Base(model=params["model"]), built.of(params).dataset, Fidelity(3, 1), Objective("macro_f1")
        )
        alone.start(number, {"lr": 1e-2}, number, tmp_path / f"alone{number}")
        ((_, expected),) = alone.until_report()
        assert reports[number].metrics["loss"] == pytest.approx(expected.metrics["loss"], rel=1e-5)
    built.leave(1)
    assert built.runs.keys() == {0, 2, 3}


def test_only_the_last_idle_sessions_stay_open(sessions: Any, tmp_path: Path) -> None:
    built, opened = sessions
    built.start(0, trial("one", "a"), 0, tmp_path / "0")
    for model in "cdecde":
        built.of(trial("two", model))
    assert len(built._open) == session.KEPT
    assert built.runs.keys() == {0}, "a session with a trial in it is never closed"
    assert len(opened) > 4


def test_parameters_of_another_family_are_reported(sessions: Any, tmp_path: Path) -> None:
    from lungtune.errors import SpaceError

    built, _ = sessions
    with pytest.raises(SpaceError, match=r"'rnak' is not a parameter of this family\. Did you mean 'rank'"):
        built.start(0, {**trial("one", "a"), "rnak": 2}, 0, tmp_path / "0")


def test_due_reports_survive_another_trials_exception(sessions: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """If a rung's report were lost, its decision would never be made."""
    built, _ = sessions
    which = {0: trial("one", "a"), 1: trial("one", "a"), 2: trial("two", "c")}
    for number, params in which.items():
        built.start(number, params, number, tmp_path / str(number))
    save = session.checkpoint.save

    def broken(path: Path, *args: Any) -> Any:
        if path.parent.name in ("1", "2"):
            raise RuntimeError(f"a bug of trial {path.parent.name}")
        return save(path, *args)

    monkeypatch.setattr(session.checkpoint, "save", broken)

    while not (due := dict(built.step(which))):
        pass
    assert due[0].fidelity == 1
    assert str(due[1]) == "a bug of trial 1"
    while not (due := dict(built.step([2]))):
        pass
    assert str(due[2]) == "a bug of trial 2"


def test_due_reports_go_out_before_the_next_session_steps(sessions: Any, tmp_path: Path) -> None:
    built, _ = sessions
    built.start(0, trial("one", "a"), 0, tmp_path / "0")
    built.start(1, trial("two", "c"), 1, tmp_path / "1")

    def broken(*args: Any) -> Any:
        raise RuntimeError("a bug")

    while not (due := built.of(trial("one", "a")).step()):
        pass
    built.runs[0].pending = [report for _, report in due]
    built.of(trial("two", "c")).step = broken
    assert built.step([0, 1]) == due


def test_a_host_opens_a_base_that_is_searched(monkeypatch: Any, tmp_path: Path) -> None:
    """Without a start point, too: the default of a base axis need not be on this machine."""
    models = {"one": ("b", "c"), "two": ("d",)}
    plain = [dataclasses.replace(space(name, each), start=()) for name, each in models.items()]
    for searched in (together(plain), dataclasses.replace(plain[0], base={"image_size": 8, "model": "not here"})):
        opened: list[Any] = []
        monkeypatch.setattr(session.Sessions, "on", lambda self, *base, opened=opened: opened.append(base))
        study = Study(tmp_path / str(len(searched.members)))
        study.acquire()
        study.begin(dataclasses.replace(searched, slots=1), data={}, seed=0, about={})
        study.append("baselines", constant={"macro_f1": 0.1})
        study.release()
        built = device_session.open_session(study.folder, 1)
        assert (built.about["slots"], built.about["why"], built.references) == (1, "set", {})
        assert [(name, base["model"]) for name, base in opened] == [("one", "b")]


def test_measured_slots_are_kept_per_device_and_base(monkeypatch: Any, tmp_path: Path) -> None:
    """The second host of a machine, and the next search, measure nothing."""
    monkeypatch.setenv("LUNGTUNE_CACHE", str(tmp_path))
    searched = space("one", ("b",))
    measured: list[int] = []

    def fit(cap: int, configurations: Sequence[Any]) -> capacity.Capacity:
        measured.append(cap)
        return capacity.Capacity(3, "30 images/s", (capacity.Rate(3, 0.1, 30.0, 0.0),))

    def opened(device: str) -> Any:
        pack = SimpleNamespace(device=torch.device(device), capacity=1)
        return SimpleNamespace(family=Family(), pack=pack, fit=fit)

    first, second = opened("cpu"), opened("cpu")
    assert device_session._slots(searched, first, "CPU, 1 thread(s)")["slots"] == 3
    again = device_session._slots(searched, second, "CPU, 1 thread(s)")
    assert (again["slots"], again["rates"][0]["slots"], second.pack.capacity, len(measured)) == (3, 3, 3, 1)
    assert again["why"].startswith("30 images/s; measured 20")
    device_session._slots(searched, opened("cpu"), "CPU, 2 thread(s)")
    device_session._slots(searched, opened("cuda"), "a GPU")
    device_session._slots(searched, opened("cuda"), "a GPU")
    assert len(measured) == 4


def test_recipe_trains_with_the_threads_of_its_trial() -> None:
    """Hosts on cores have one thread; two sum in another order, which changes the result at a high learning rate."""
    torch.set_num_threads(2)
    capacity.set_reproducible_threads()
    assert torch.get_num_threads() == (2 if torch.cuda.is_available() else 1)
