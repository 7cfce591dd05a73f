"""`core.environment`: cores and memory available to a process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lungtune.core import environment


@pytest.mark.parametrize(
    ("limit", "cores"), [("200000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 8), ("6400000 100000\n", 8)]
)
def test_cores_are_the_bound_ones_or_the_containers_share(
    limit: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: limit)
    assert environment.cores() == cores
