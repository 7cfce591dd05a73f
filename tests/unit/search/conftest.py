"""Fixtures of the search tests: fsync disabled, as durability is tested elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def no_disk() -> Iterator[None]:
    """Disable fsync: thousands of events are written, each of which would wait for milliseconds on a busy disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
