"""Fixtures of the integration tests: scripts run in this process, a prepared MLflow store."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from lungtune.core.paths import ROOT
from lungtune.tracking import store


class Left(NamedTuple):
    """Result of a script run."""

    code: int
    out: str
    err: str


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Left]:
    """Run a script here: a process of its own would import for seconds what is imported already."""

    def run(name: str, *words: object) -> Left:
        path = ROOT / "scripts" / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit, match=r"^\d+$") as left:
            runpy.run_path(str(path), run_name="__main__")
        return Left(int(str(left.value)), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before its first run: its migrations take seconds. Copy it, don't write to it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    store.settle_environment()
    store.prepare(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def furnish(empty_store: Path) -> Callable[[Path], str]:
    """Put an empty store at a path; return its URI."""

    def put(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty_store, path)
        return f"sqlite:///{path}"

    return put
