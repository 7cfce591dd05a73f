"""Fixtures of the fault tests: a search to break, and the record of each fault.

With ``LUNGTUNE_FAULTS=FILE`` each fault's row is appended to ``FILE``; ``python -m tests.faults.table FILE`` writes
docs/faults.md from it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.faults.drive import Drive
from tests.integration.conftest import door, empty_store, furnish

__all__ = ["door", "empty_store", "furnish"]


@pytest.fixture
def search(tmp_path: Path, furnish: Callable[[Path], str]) -> Iterator[Callable[..., Drive]]:
    """Return a function that makes a search, not started: arguments as of :class:`Drive`, home and MLflow filled in."""
    made: list[Drive] = []

    def make(engine: str = "hosts", home: Path | None = None, uri: str | None = None, **env: Any) -> Drive:
        home = home or tmp_path / "home"
        made.append(Drive(home, uri or furnish(tmp_path / "mlflow.db"), engine, **env))
        return made[-1]

    yield make
    for drive in made:
        drive.close()


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[[str, str], AbstractContextManager[None]]:
    """Return a context manager around a fault and its checks: ``fault("raylet killed while trials train", RESULT)``.

    RESULT says what happens, such as ``Ray is started again; no trial lost``.
    """

    @contextmanager
    def recorded(name: str, result: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        file = os.environ.get("LUNGTUNE_FAULTS")
        if file:
            row = {"fault": name, "result": result, "seconds": round(time.monotonic() - began, 1)}
            row["test"] = request.node.nodeid
            with open(file, "a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")

    return recorded
