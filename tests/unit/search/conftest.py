"""Fixtures of the search tests: fsync disabled, as durability is tested elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_disk() -> Iterator[None]:
    """Thousands of events are written; on a busy disk each would wait for milliseconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
