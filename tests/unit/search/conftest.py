"""What a search decides is tested here, not what survives a power cut: the disk need not turn for every event."""

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
